"""`python -m bench.vllm_gpu`: compare this service with vLLM on a GPU to plain `vllm serve`.

Both run on one GPU with the same share of its memory and are measured in turns. Needs a GPU host
with vLLM in this Python. Exit status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

from bench import report
from bench.checks import Check
from bench.load import Load, pool, trial
from bench.progress import Progress, Step
from bench.random_model import make
from bench.service import ROOT
from bench.stats import median_interval, milliseconds
from bench.vllm_servers import NAME, Server, start_servers

_PACKAGES = ("vllm", "torch", "transformers", "gunicorn", "gevent", "msgspec", "httptools")


@dataclass(frozen=True)
class Level:
    """One number of streams: the load, the number of pairs, the expectation and the target."""

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
    """Measure, print the table, write the files."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="bench-vllm-") as temporary:
        folder = Path(temporary)
        with multiprocessing.get_context("spawn").Pool(1) as maker:  # frees its GPU memory
            parameters = maker.apply(make, (folder / "models" / NAME, arguments.tokenizer))
        with (
            start_servers(folder, arguments.memory, arguments.logs) as (plain, service),
            pool() as clients,
            Progress(_steps(arguments.share)) as progress,
        ):
            progress.next_step()
            _warm_up(clients, plain, service)
            levels = {}
            for level in LEVELS:
                pairs = _pairs(level, arguments.share)
                levels[level.load.streams] = _measure(
                    clients, level, plain, service, pairs, progress
                )
                _write(arguments.results, levels, parameters, service)
    checks = [_check(level, levels[level.load.streams]) for level in LEVELS]
    for check in checks:
        print(f"{check.metric}: {check.result}, target {check.target}, {check.ok}", flush=True)
    return int(any(check.ok is False for check in checks))


def _steps(share: float) -> list[Step]:
    measured = [
        Step(f"{each.load.streams} streams", 12 * _pairs(each, share), _pairs(each, share))
        for each in LEVELS
    ]
    return [Step("warm-up", 60), *measured]


def _pairs(level: Level, share: float) -> int:
    return max(1, round(level.pairs * share))


def _warm_up(clients: Pool, plain: Server, service: Server) -> None:
    """Compile and capture every batch size on both sides."""
    for number, level in enumerate(LEVELS):
        for server in (plain, service):
            load = Load(level.load.streams, 1, 32)
            failures = trial(clients, server.port, NAME, load, -1 - number).failures
            if failures:
                raise SystemExit(f"{server.name} failed: {failures[:3]}")


def _measure(
    clients: Pool,
    level: Level,
    plain: Server,
    service: Server,
    pairs: int,
    progress: Progress,
) -> dict[str, Any]:
    """Run pairs of trials in alternating order."""
    rates: dict[str, list[float]] = {plain.name: [], service.name: []}
    ttft: dict[str, list[float]] = {plain.name: [], service.name: []}
    failed: dict[str, int] = {plain.name: 0, service.name: 0}
    busy = 0.0
    progress.next_step()
    for number in range(pairs):
        progress.next_round()
        for server in (plain, service) if number % 2 else (service, plain):
            wave = trial(clients, server.port, NAME, level.load, number)
            rates[server.name].append(wave.tokens_per_second)
            ttft[server.name] += [outcome.ttft for outcome in wave.outcomes if outcome.ok]
            failed[server.name] += len(wave.failures)
            busy = max(busy, wave.busy)
    ratios = [a / b for a, b in zip(rates[service.name], rates[plain.name], strict=True)]
    return {
        "load": asdict(level.load),
        "ratio": round(statistics.median(ratios), 3),
        "interval": [round(value, 3) for value in median_interval(ratios)],
        "ratios": [round(value, 3) for value in ratios],
        "tokens_per_second": {k: [round(rate) for rate in v] for k, v in rates.items()},
        "ttft_ms": {k: milliseconds(v) for k, v in ttft.items() if v},
        "failed": failed,
        "busiest_client_process": round(busy, 2),
    }


def _check(level: Level, figures: dict[str, Any]) -> Check:
    low, high = figures["interval"]
    result = f"{figures['ratio']:.3f} ({low:.3f} to {high:.3f})"
    return Check(
        f"tok/s, {level.load.streams} streams: this service / vllm serve",
        level.expected,
        f">= {level.target}",
        result,
        figures["ratio"] >= level.target and not any(figures["failed"].values()),
    )


def _write(target: Path, levels: dict[int, Any], parameters: float, service: Server) -> None:
    """Write the results so far, so that an aborted run keeps them."""
    done = [level for level in LEVELS if level.load.streams in levels]
    checks = [_check(level, levels[level.load.streams]) for level in done]
    software = {name: version(name) for name in _PACKAGES}
    content = {
        "machine": report.machine(),
        "software": software,
        "model": f"{parameters:.2f}B parameters, bfloat16, random",
        "service": service.description,
        "checks": [check.as_dict() for check in checks],
        "levels": levels,
    }
    target.mkdir(parents=True, exist_ok=True)
    (target / "vllm_gpu.json").write_text(json.dumps(content, indent=2) + "\n")
    (target / "vllm_gpu.md").write_text(_markdown(content, checks))


def _markdown(content: dict[str, Any], checks: list[Check]) -> str:
    rows = [("streams", "vllm serve", "this service", "ratio", "expected", "target", "verdict")]
    rows.append(("---",) * len(rows[0]))
    for check, (streams, figures) in zip(checks, content["levels"].items(), strict=True):
        sides = [_side(figures, name) for name in figures["failed"]]
        rows.append(
            (str(streams), *sides, check.result, check.expected, check.target, _VERDICTS[check.ok])
        )
    versions = ", ".join(f"{name} {number}" for name, number in content["software"].items())
    head = (
        f"Measured on {content['machine']}; {versions}.\n\nThe model: {content['model']}. The "
        f"service: {content['service']}. Columns of the two sides: median tok/s; TTFT in ms "
        "(median, 95th percentile).\n\n"
    )
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _side(figures: dict[str, Any], name: str) -> str:
    rate = statistics.median(figures["tokens_per_second"][name])
    ttft = figures["ttft_ms"].get(name, {"p50": 0, "p95": 0})
    return f"{rate:,.0f}; {ttft['p50']:.0f}, {ttft['p95']:.0f}"


_VERDICTS = {True: "PASS", False: "FAIL", None: ""}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.vllm_gpu", description=__doc__)
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="Hugging Face folder with a tokenizer"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument(
        "--logs", type=Path, default=Path("logs"), help="folder for the output of the servers"
    )
    parser.add_argument(
        "--memory", type=float, default=0.4, help="share of the GPU memory for each server"
    )
    parser.add_argument("--share", type=float, default=1.0, help="share of the pairs to run")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
