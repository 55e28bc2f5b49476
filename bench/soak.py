"""Many concurrent streams for minutes: correct responses, latency of /health, memory.

make soak
make soak ARGS="--streams 200 --seconds 300"

One gateway worker in front of the embedded model. Each client requests its own number, with
structured output that the number is part of, and sends the next request after each response. Exit
status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench import report
from bench.checks import HEALTH_P99_MS, Check, figure
from bench.client import Address, Outcome, Stream, post
from bench.probe import Probes, health_probe
from bench.progress import Progress, Step
from bench.service import ROOT, NotStarted, Service, megabytes, start_service
from bench.stats import summary
from vllm_obtain.download.bundled_model import EMBEDDED

STREAMS = (20, 64, 200)
SECONDS = 120.0
PROBE_INTERVAL = 0.05
STAGGER = 0.01
MAX_TOKENS = 64
GROWTH_MB = 20.0
# Longer than any stream takes to end after the last request was sent.
TIMEOUT = 120.0
_TEXT = re.compile(rb'"content":"((?:[^"\\]|\\.)*)"')
_CHUNK_BORDER = re.compile(rb"\r\n[0-9a-f]+\r\n")


@dataclass
class Level:
    """Results for one number of streams.

    Args:
        streams: number of concurrent streams.
        seconds: time during which new requests were sent.
    """

    streams: int
    seconds: float
    outcomes: list[Outcome] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    probes: Probes = field(default_factory=Probes)


class _TextStream(Stream):
    """A stream that keeps its text. The responses are short."""

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self._data = bytearray()

    def data_received(self, data: bytes) -> None:
        """Store the data."""
        self._data += data
        super().data_received(data)

    @property
    def text(self) -> str:
        """Text of the whole response."""
        return b"".join(_TEXT.findall(_CHUNK_BORDER.sub(b"", bytes(self._data)))).decode()


def main() -> int:
    """Measure, print the table, write the files."""
    arguments = _arguments()
    settings = {
        "MODELS_DIR": str(arguments.models),
        "DEFAULT_MODEL": EMBEDDED.name,
        "INFERENCE_ENGINE": "llama_cpp",
        "WORKERS": "1",
        "MAX_CONCURRENT_REQUESTS": str(max(*arguments.streams, 64) + 8),
    }
    levels: list[Level] = []
    try:
        steps = [Step(f"{each} streams", arguments.seconds) for each in arguments.streams]
        with (
            start_service(EMBEDDED.name, settings) as service,
            Progress(steps) as progress,
        ):
            for streams in arguments.streams:
                progress.next_step()
                levels.append(measure(service, Level(streams, arguments.seconds)))
    except NotStarted as error:
        print(error, file=sys.stderr)
        return 2
    checks = [check for level in levels for check in verify_models(level)]
    report.show(checks)
    target = arguments.results / f"soak-{'-'.join(map(str, arguments.streams))}.json"
    plan = {"streams": list(arguments.streams), "seconds": arguments.seconds}
    report.write(target, plan, {"levels": [figures(level) for level in levels]}, checks)
    print(f"Results: {target}")
    return int(any(check.ok is False for check in checks))


def measure(service: Service, level: Level) -> Level:
    """Run the clients and measure /health and memory."""
    level.before = _memory(service)
    with health_probe(service.port, PROBE_INTERVAL) as level.probes:
        asyncio.run(load(service.gateway, level))
    level.after = _memory(service)
    return level


async def load(address: Address, level: Level) -> None:
    """Send requests until the time is over, and wait for the last responses."""
    numbers = itertools.count(10_000)
    deadline = time.monotonic() + level.seconds

    async def client(index: int) -> None:
        await asyncio.sleep(index * STAGGER)
        while time.monotonic() < deadline:
            await _request(address, level, next(numbers))

    async with asyncio.timeout(level.seconds + TIMEOUT):
        await asyncio.gather(*map(client, range(level.streams)))


async def _request(address: Address, level: Level, number: int) -> None:
    pattern = rf"{number}( [a-z]{{2,6}}){{6}}"
    protocol = _TextStream(request_for(number, pattern))
    outcome = protocol.outcome
    try:
        await address.connect(protocol)
        await protocol.closed
    except OSError as error:
        outcome.end, outcome.error = time.monotonic(), str(error) or type(error).__name__
    finally:
        protocol.abort()
    level.outcomes.append(outcome)
    if outcome.ok and not re.fullmatch(pattern, protocol.text):
        level.wrong.append(f"{number}: {protocol.text!r}")


def request_for(number: int, pattern: str) -> bytes:
    """Build the request with a number, whose response must match a regular expression."""
    return post(
        {
            "model": EMBEDDED.name,
            "messages": [{"role": "user", "content": f"My number is {number}. Tell me of it."}],
            "guided_regex": pattern,
            "max_tokens": MAX_TOKENS,
            "temperature": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


def _memory(service: Service) -> dict[str, float]:
    processes: dict[str, psutil.Process] = {
        "master": service.master,
        "worker": service.worker,
        "supervisor": service.supervisor,
        "engine": service.engine_process,
    }
    return {name: megabytes(process)["pss"] for name, process in processes.items()}


def figures(level: Level) -> dict[str, Any]:
    """Collect the figures for the JSON file."""
    complete = [outcome for outcome in level.outcomes if outcome.ok]
    health = [1000 * seconds for _, seconds, _ in level.probes.samples]
    return {
        "streams": level.streams,
        "seconds": level.seconds,
        "requests": len(level.outcomes),
        "failed": _failures(level)[:10],
        "wrong": level.wrong[:10],
        "ttft_s": summary([outcome.ttft for outcome in complete] or [0.0]),
        "total_s": summary([outcome.end - outcome.start for outcome in complete] or [0.0]),
        "tokens_per_second": round(sum(outcome.tokens for outcome in complete) / level.seconds, 1),
        "health_ms": summary(health or [0.0]),
        "health_failures": level.probes.failures,
        "memory_mb": {"before": level.before, "after": level.after},
    }


def verify_models(level: Level) -> list[Check]:
    """Check one number of streams against the targets."""
    result, name = figures(level), f"{level.streams} streams"
    requests, bad = len(level.outcomes), len(_failures(level)) + len(level.wrong)
    ttft, total, health = result["ttft_s"], result["total_s"], result["health_ms"]
    growth = level.after["worker"] - level.before["worker"]
    correct = f"{requests - bad:,} of {requests:,}"
    all_correct = bad == 0 and requests >= level.streams
    latency = f"{health['p99']:.1f} ms ({health['max']:.0f} ms)"
    responsive = health["p99"] < HEALTH_P99_MS and not level.probes.failures
    return [
        Check(f"{name}: correct responses", "", "all", correct, all_correct),
        figure(f"{name}: TTFT p50, p95", f"{ttft['p50']:.2f} s, {ttft['p95']:.2f} s"),
        figure(f"{name}: total time p50, p95", f"{total['p50']:.2f} s, {total['p95']:.2f} s"),
        Check(f"{name}: /health p99 (max)", "", f"< {HEALTH_P99_MS:g} ms", latency, responsive),
        Check(
            f"{name}: memory growth of the worker",
            "",
            f"< {GROWTH_MB:g} MB",
            f"{growth:+.1f} MB",
            growth < GROWTH_MB,
        ),
        figure(f"{name}: memory before, after, in MB", _sizes(level)),
    ]


def _sizes(level: Level) -> str:
    return ", ".join(
        f"{name} {before:.0f} to {level.after[name]:.0f}" for name, before in level.before.items()
    )


def _failures(level: Level) -> list[str]:
    return [
        outcome.error or f"status {outcome.status}, done={outcome.done}"
        for outcome in level.outcomes
        if not outcome.ok
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument(
        "--streams", type=int, nargs="+", default=STREAMS, help="numbers of streams"
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="duration for each number of streams"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.models = arguments.models.absolute()
    if not EMBEDDED.path(arguments.models).is_file():
        parser.error("the embedded model is missing; run `make model` to download it")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
