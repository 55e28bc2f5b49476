"""The guarantees, and whether a run kept them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bench.checks import Check
from bench.stats import milliseconds, percentile
from tests.chaos.client import CUT, LOST, SILENT, WRONG
from tests.chaos.faults import Fault
from tests.chaos.run import Run

# Above the engine's own start.
RECOVERY = 1.0
EXAMPLES = 20


def checks(run: Run) -> list[Check]:
    """Check a run."""
    fates = Counter(result.fate for result in run.results)
    lost = f"{fates[LOST]} of {len(run.results):,}"
    slow = [fault for fault in _measured_faults(run) if _late(fault) > RECOVERY]
    failed = [f"{fault.kind}: {fault.failed}" for fault in run.faults if fault.failed]
    return [
        _none("requests lost before the first byte", lost, fates[LOST]),
        _none("responses wrong or of another request", str(fates[WRONG]), fates[WRONG]),
        _none("streams that ended early without an error", str(fates[SILENT]), fates[SILENT]),
        _none("leftover processes and sockets", "; ".join(run.orphans) or "0", len(run.orphans)),
        _none("leaked slots at the end", str(run.leaked), run.leaked),
        _none("faults without recovery", "; ".join(failed) or "0", len(failed)),
        Check(
            "worst time from a kill to the next token, minus the engine's start time",
            "",
            f"<= {RECOVERY:g} s",
            _recovery(run),
            not slow,
        ),
        _figure(
            "requests retried by the client after a worker was killed", str(_count_retries(run))
        ),
        _figure("streams interrupted after the first byte, with an error", str(fates[CUT])),
        _figure("faults", _faults(run)),
        _figure("memory in MiB, first to last (max)", _memory(run)),
        _figure("/health p50, p99, max", _health(run)),
    ]


def figures(run: Run) -> dict[str, Any]:
    """Collect the figures for the JSON file."""
    kinds = Counter((result.ask.kind, result.fate) for result in run.results)
    bad = [result for result in run.results if result.fate in (LOST, WRONG, SILENT)]
    began = min((result.began for result in run.results), default=0.0)
    return {
        "requests": len(run.results),
        "fates": {f"{kind}: {fate}": count for (kind, fate), count in sorted(kinds.items())},
        "examples": [
            {
                "kind": result.ask.kind,
                "fate": result.fate,
                "why": result.why,
                "began": round(result.began - began, 2),
                "ended": round(result.seen.ended - began, 2),
                "tries": result.tries,
                "stream": result.ask.streamed,
            }
            for result in bad[:EXAMPLES]
        ],
        "cut": Counter(result.why for result in run.results if result.fate == CUT),
        "faults": [
            {
                "kind": fault.kind,
                "at": round(fault.at - began, 2),
                "model": fault.model,
                "recovered": fault.recovered and round(fault.recovered, 2),
                "start": fault.start and round(fault.start, 2),
                "failed": fault.failed,
            }
            for fault in run.faults
        ],
        "memory": run.memory,
        "orphans": run.orphans,
        "leaked": run.leaked,
        "logged": Counter(line["event"] for line in run.logged),
        "faults_of_ours": [line for line in run.logged if "exception" in line][:EXAMPLES],
    }


def _measured_faults(run: Run) -> list[Fault]:
    return [fault for fault in run.faults if fault.recovered is not None and fault.start]


def _late(fault: Fault) -> float:
    return (fault.recovered or 0.0) - (fault.start or 0.0)


def _recovery(run: Run) -> str:
    measured = _measured_faults(run)
    if not measured:
        return "no engine killed"
    worst = max(measured, key=_late)
    return (
        f"{_late(worst):+.2f} s ({worst.recovered:.2f} s, start {worst.start:.2f} s), "
        f"median {percentile([fault.recovered or 0.0 for fault in measured], 0.5):.2f} s "
        f"of {len(measured)}"
    )


def _count_retries(run: Run) -> int:
    return sum(result.tries > 1 for result in run.results)


def _faults(run: Run) -> str:
    counted = Counter(fault.kind for fault in run.faults)
    return f"{len(run.faults)}: " + ", ".join(f"{n} {kind}" for kind, n in sorted(counted.items()))


def _memory(run: Run) -> str:
    rows = []
    for kind in ("master", "worker", "supervisor", "llama.cpp"):
        sizes = [sample[kind] for sample in run.memory if kind in sample]
        if sizes:
            rows.append(f"{kind} {sizes[0]:.0f} to {sizes[-1]:.0f} ({max(sizes):.0f})")
    return ", ".join(rows)


def _health(run: Run) -> str:
    seen = milliseconds([seconds for _, seconds, _ in run.health.samples] or [0.0])
    return f"{seen['p50']:.0f}, {seen['p99']:.0f}, {seen['max']:.0f} ms"


def _none(metric: str, result: str, count: int) -> Check:
    return Check(metric, "", "0", result, count == 0)


def _figure(metric: str, result: str) -> Check:
    return Check(metric, "", "", result)
