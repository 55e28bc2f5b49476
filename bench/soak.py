"""Many streams at once for minutes: is every answer right, does /health answer, does memory stay?

make soak
make soak ARGS="--streams 200 --seconds 300"

One gateway worker in front of the embedded model. Each client asks for its own number, in a form
that holds the model to it, and asks again when it is answered. Exit status 1 when a target is
missed.
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
from bench.checks import HEALTH_P99_MS, Check, told
from bench.client import Address, Outcome, Stream, post
from bench.probe import Probes, probing
from bench.service import ROOT, NotStarted, Service, megabytes, running
from bench.stats import summary
from vllm_obtain.catalogue.embedded import EMBEDDED

STREAMS = (20, 64, 200)
SECONDS = 120.0
PROBE_INTERVAL = 0.05
STAGGER = 0.01
MAX_TOKENS = 64
GROWTH_MB = 20.0
# Above the longest wait for the end of streams that are under way.
PATIENCE = 120.0
_TEXT = re.compile(rb'"content":"((?:[^"\\]|\\.)*)"')
_BORDER = re.compile(rb"\r\n[0-9a-f]+\r\n")


@dataclass
class Level:
    """What was seen with one number of streams.

    Args:
        streams: how many.
        seconds: how long new requests were sent.
    """

    streams: int
    seconds: float
    outcomes: list[Outcome] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    probes: Probes = field(default_factory=Probes)


class _Spoken(Stream):
    """Keeps what was said; these answers are short."""

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self._all = bytearray()

    def data_received(self, data: bytes) -> None:
        """Keep it, and look at it."""
        self._all += data
        super().data_received(data)

    @property
    def text(self) -> str:
        """The whole answer."""
        return b"".join(_TEXT.findall(_BORDER.sub(b"", bytes(self._all)))).decode()


def main() -> int:
    """Measure, print, write."""
    asked = _arguments()
    settings = {
        "MODELS_DIR": str(asked.models),
        "DEFAULT_MODEL": EMBEDDED.name,
        "INFERENCE_ENGINE": "llama_cpp",
        "WORKERS": "1",
        "MAX_CONCURRENT_REQUESTS": str(max(*asked.streams, 64) + 8),
    }
    levels: list[Level] = []
    try:
        with running(EMBEDDED.name, settings) as service:
            for streams in asked.streams:
                print(f"{streams} streams for {asked.seconds:g} s", flush=True)
                levels.append(measure(service, Level(streams, asked.seconds)))
    except NotStarted as error:
        print(error, file=sys.stderr)
        return 2
    checks = [check for level in levels for check in verdicts(level)]
    report.show(checks)
    target = asked.results / f"soak-{'-'.join(map(str, asked.streams))}.json"
    plan = {"streams": list(asked.streams), "seconds": asked.seconds}
    report.write(target, plan, {"levels": [figures(level) for level in levels]}, checks)
    print(f"Written: {target}")
    return int(any(check.ok is False for check in checks))


def measure(service: Service, level: Level) -> Level:
    """Have so many clients ask for some time."""
    level.before = _weigh(service)
    with probing(service.port, PROBE_INTERVAL) as level.probes:
        asyncio.run(load(service.gateway, level))
    level.after = _weigh(service)
    return level


async def load(address: Address, level: Level) -> None:
    """Ask until the time is over, and wait for what is under way then."""
    numbers = itertools.count(10_000)
    end = time.monotonic() + level.seconds

    async def one(place: int) -> None:
        await asyncio.sleep(place * STAGGER)
        while time.monotonic() < end:
            await _ask(address, level, next(numbers))

    async with asyncio.timeout(level.seconds + PATIENCE):
        await asyncio.gather(*map(one, range(level.streams)))


async def _ask(address: Address, level: Level, number: int) -> None:
    form = rf"{number}( [a-z]{{2,6}}){{6}}"
    protocol = _Spoken(request_for(number, form))
    outcome = protocol.outcome
    try:
        await address.connect(protocol)
        await protocol.over
    except OSError as error:
        outcome.ended, outcome.error = time.monotonic(), str(error) or type(error).__name__
    finally:
        protocol.abort()
    level.outcomes.append(outcome)
    if outcome.ok and not re.fullmatch(form, protocol.text):
        level.wrong.append(f"{number}: {protocol.text!r}")


def request_for(number: int, form: str) -> bytes:
    """Write the request with a number, whose answer has a form."""
    return post(
        {
            "model": EMBEDDED.name,
            "messages": [{"role": "user", "content": f"My number is {number}. Tell me of it."}],
            "guided_regex": form,
            "max_tokens": MAX_TOKENS,
            "temperature": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


def _weigh(service: Service) -> dict[str, float]:
    processes: dict[str, psutil.Process] = {
        "master": service.master,
        "worker": service.worker,
        "supervisor": service.supervisor,
        "engine": service.engine_process,
    }
    return {name: megabytes(process)["pss"] for name, process in processes.items()}


def figures(level: Level) -> dict[str, Any]:
    """What is written beside the verdict."""
    good = [outcome for outcome in level.outcomes if outcome.ok]
    health = [1000 * seconds for _, seconds, _ in level.probes.samples]
    return {
        "streams": level.streams,
        "seconds": level.seconds,
        "requests": len(level.outcomes),
        "failed": _failures(level)[:10],
        "wrong": level.wrong[:10],
        "first_token_s": summary([outcome.wait for outcome in good] or [0.0]),
        "whole_s": summary([outcome.ended - outcome.began for outcome in good] or [0.0]),
        "tokens_per_second": round(sum(outcome.tokens for outcome in good) / level.seconds, 1),
        "health_ms": summary(health or [0.0]),
        "health_failures": level.probes.failures,
        "memory_mb": {"before": level.before, "after": level.after},
    }


def verdicts(level: Level) -> list[Check]:
    """Judge one number of streams."""
    seen, name = figures(level), f"{level.streams} streams"
    requests, bad = len(level.outcomes), len(_failures(level)) + len(level.wrong)
    first, whole, health = seen["first_token_s"], seen["whole_s"], seen["health_ms"]
    growth = level.after["worker"] - level.before["worker"]
    answered = f"{requests - bad:,} of {requests:,}"
    right = bad == 0 and requests >= level.streams
    slowest = f"{health['p99']:.1f} ms ({health['max']:.0f} ms)"
    calm = health["p99"] < HEALTH_P99_MS and not level.probes.failures
    return [
        Check(f"{name}: answered, and right", "", "all", answered, right),
        told(f"{name}: first token p50, p95", f"{first['p50']:.2f} s, {first['p95']:.2f} s"),
        told(f"{name}: whole answer p50, p95", f"{whole['p50']:.2f} s, {whole['p95']:.2f} s"),
        Check(f"{name}: /health p99 (largest)", "", f"< {HEALTH_P99_MS:g} ms", slowest, calm),
        Check(
            f"{name}: growth of the gateway worker",
            "",
            f"< {GROWTH_MB:g} MB",
            f"{growth:+.1f} MB",
            growth < GROWTH_MB,
        ),
        told(f"{name}: memory before, after, in MB", _sizes(level)),
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
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each of them")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.models = asked.models.absolute()
    if not EMBEDDED.path(asked.models).is_file():
        parser.error("the embedded model is not there; `make model` fetches it")
    return asked


if __name__ == "__main__":
    sys.exit(main())
