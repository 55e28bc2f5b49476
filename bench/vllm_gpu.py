"""`python -m bench.vllm_gpu`: this service with vLLM on a GPU, against plain `vllm serve`.

Both run at once on one GPU, each with the same part of its memory, and take turns. Needs a GPU
host with vLLM for this Python; exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

from bench import report
from bench.checks import Check
from bench.load import Load, pool, trial
from bench.random_model import make
from bench.service import ROOT
from bench.stats import median_interval, milliseconds
from bench.vllm_servers import NAME, Server, both

_PACKAGES = ("vllm", "torch", "transformers", "gunicorn", "gevent", "msgspec", "httptools")


@dataclass(frozen=True)
class Level:
    """One number of streams: the load, how often, and what was expected and has to be reached."""

    load: Load
    pairs: int
    expected: str
    target: float


LEVELS = (
    Level(Load(1, 6, 128), 8, "0.97", 0.98),
    Level(Load(16, 4, 128), 8, "0.99", 0.98),
    Level(Load(64, 3, 128), 8, "1.0", 0.98),
    Level(Load(256, 3, 128), 6, "1.8", 1.7),
)


def main() -> int:
    """Measure, print, write."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="bench-vllm-") as place:
        folder = Path(place)
        with multiprocessing.get_context("spawn").Pool(1) as maker:  # gives its GPU memory back
            parameters = maker.apply(make, (folder / "models" / NAME, arguments.tokenizer))
        with both(folder, arguments.memory, arguments.logs) as (plain, ours), pool() as clients:
            began = time.monotonic()
            _warm_up(clients, plain, ours)
            levels = {}
            for level in LEVELS:
                levels[level.load.streams] = _measure(clients, level, plain, ours, arguments)
                _write(arguments.results, levels, parameters, ours)
            print(f"measured in {time.monotonic() - began:.0f} s", flush=True)
    checks = [_check(level, levels[level.load.streams]) for level in LEVELS]
    for check in checks:
        print(f"{check.what}: {check.seen}, target {check.target}, {check.ok}", flush=True)
    return int(any(check.ok is False for check in checks))


def _warm_up(clients: Pool, plain: Server, ours: Server) -> None:
    """Let every batch size be compiled and captured on both sides."""
    for number, level in enumerate(LEVELS):
        for server in (plain, ours):
            load = Load(level.load.streams, 1, 32)
            failures = trial(clients, server.port, NAME, load, -1 - number).failures
            if failures:
                raise SystemExit(f"{server.name} failed: {failures[:3]}")


def _measure(
    clients: Pool, level: Level, plain: Server, ours: Server, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Pairs of trials, the order changing; the first one of both is not counted."""
    rates: dict[str, list[float]] = {plain.name: [], ours.name: []}
    waits: dict[str, list[float]] = {plain.name: [], ours.name: []}
    failed: dict[str, int] = {plain.name: 0, ours.name: 0}
    busy = 0.0
    pairs = max(1, round(level.pairs * arguments.share))
    for number in range(pairs):
        for server in (plain, ours) if number % 2 else (ours, plain):
            wave = trial(clients, server.port, NAME, level.load, number)
            rates[server.name].append(wave.tokens_per_second)
            waits[server.name] += [outcome.wait for outcome in wave.outcomes if outcome.ok]
            failed[server.name] += len(wave.failures)
            busy = max(busy, wave.busy)
    ratios = [a / b for a, b in zip(rates[ours.name], rates[plain.name], strict=True)]
    found = {
        "load": asdict(level.load),
        "ratio": round(statistics.median(ratios), 3),
        "interval": [round(value, 3) for value in median_interval(ratios)],
        "ratios": [round(value, 3) for value in ratios],
        "tokens_per_second": {k: [round(rate) for rate in v] for k, v in rates.items()},
        "time_to_first_token_ms": {k: milliseconds(v) for k, v in waits.items() if v},
        "failed": failed,
        "busiest_client_process": round(busy, 2),
    }
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    print(f"{level.load.streams} streams: {found['ratio']} {medians} failed {failed}", flush=True)
    return found


def _check(level: Level, found: dict[str, Any]) -> Check:
    low, high = found["interval"]
    seen = f"{found['ratio']:.3f} ({low:.3f} to {high:.3f})"
    return Check(
        f"tokens/s, {level.load.streams} streams: this service / vllm serve",
        level.expected,
        f">= {level.target}",
        seen,
        found["ratio"] >= level.target and not any(found["failed"].values()),
    )


def _write(target: Path, levels: dict[int, Any], parameters: float, ours: Server) -> None:
    """Write what there is so far; a run that breaks off loses the rest only."""
    done = [level for level in LEVELS if level.load.streams in levels]
    checks = [_check(level, levels[level.load.streams]) for level in done]
    software = {name: version(name) for name in _PACKAGES}
    content = {
        "machine": report.machine(),
        "software": software,
        "model": f"{parameters:.2f}B parameters, bfloat16, random",
        "service": ours.about,
        "checks": [check.as_dict() for check in checks],
        "levels": levels,
    }
    target.mkdir(parents=True, exist_ok=True)
    (target / "vllm_gpu.json").write_text(json.dumps(content, indent=2) + "\n")
    (target / "vllm_gpu.md").write_text(_markdown(content, checks))


def _markdown(content: dict[str, Any], checks: list[Check]) -> str:
    rows = [("streams", "vllm serve", "this service", "ratio", "expected", "target", "verdict")]
    rows.append(("---",) * len(rows[0]))
    for check, (streams, found) in zip(checks, content["levels"].items(), strict=True):
        sides = [_side(found, name) for name in found["failed"]]
        rows.append(
            (str(streams), *sides, check.seen, check.expected, check.target, _WORD[check.ok])
        )
    versions = ", ".join(f"{name} {number}" for name, number in content["software"].items())
    head = (
        f"Measured on {content['machine']}; {versions}.\n\nThe model: {content['model']}. The "
        f"service: {content['service']}. A side's figures are the median tokens/s, and the time "
        "to the first token in ms (median, 95th percentile).\n\n"
    )
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _side(found: dict[str, Any], name: str) -> str:
    rate = statistics.median(found["tokens_per_second"][name])
    wait = found["time_to_first_token_ms"].get(name, {"p50": 0, "p95": 0})
    return f"{rate:,.0f}; {wait['p50']:.0f}, {wait['p95']:.0f}"


_WORD = {True: "PASS", False: "FAIL", None: ""}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.vllm_gpu", description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="for the servers' output")
    parser.add_argument("--memory", type=float, default=0.4, help="share of the GPU, for each")
    parser.add_argument("--share", type=float, default=1.0, help="of the pairs, to be quick")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
