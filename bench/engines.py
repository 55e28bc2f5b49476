"""`python -m bench.engines`: the three engines on this machine, each through the service.

All are loaded at once, each in a service of its own, and take turns; who waits uses no processor.
VLLM_PYTHON names the interpreter that has vLLM; an engine that is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import engines_report
from bench.client import Outcome, Wave, post, wave
from bench.service import ROOT, NotStarted, Service, running
from bench.stats import milliseconds
from vllm_obtain.catalogue.embedded import EMBEDDED
from vllm_obtain.engines import detect
from vllm_obtain.engines.openblas import preload
from vllm_obtain.engines.registry import BUILT_IN, adapter
from vllm_obtain.hardware import describe
from vllm_obtain.settings import Settings

START_SECONDS = 300.0
WAVE_SECONDS = 180.0
# More streams than this take MLX minutes on a processor.
MOST = {"mlx": 8}
_numbers = itertools.count(100_000)
_BEGAN = time.monotonic()


@dataclass(frozen=True)
class Level:
    """How many requests come at once, how often, and how many tokens each asks for."""

    streams: int
    rounds: int
    tokens: int


FULL = (
    Level(1, 7, 64),
    Level(4, 5, 64),
    Level(8, 5, 64),
    Level(16, 5, 48),
    Level(64, 5, 32),
)
QUICK = (Level(1, 1, 8), Level(8, 1, 4))


def measure(services: Mapping[str, Service], levels: tuple[Level, ...]) -> list[dict[str, Any]]:
    """Measure all levels, the engines in turns, in the other order every round.

    Args:
        services: by engine.
        levels: how much.

    Returns:
        A row per level and engine.

    Raises:
        RuntimeError: a request failed.
    """
    rows = []
    for level in levels:
        names = [name for name in services if level.streams <= MOST.get(name, level.streams)]
        _say(f"{level.streams} streams: {', '.join(names)}")
        seen: dict[str, list[Wave]] = {name: [] for name in names}
        for number in range(level.rounds + 1):
            for name in names if number % 2 else reversed(names):
                done = _round(services[name], level)
                if number:  # the first one is for warmth
                    seen[name].append(done)
        rows += [_row(level, name, waves) for name, waves in seen.items()]
    return rows


def _round(service: Service, level: Level) -> Wave:
    requests = [_request(level.tokens) for _ in range(level.streams)]

    async def run() -> Wave:
        async with asyncio.timeout(WAVE_SECONDS):
            return await wave(service.gateway, requests)

    done = asyncio.run(run())
    if done.failures:
        raise RuntimeError(f"{level.streams} streams: {done.failures[0]}")
    return done


def _request(tokens: int) -> bytes:
    """Write a request; its prompt begins with a number, so no cache has it."""
    body = {
        "model": EMBEDDED.name,
        "messages": [{"role": "user", "content": f"{next(_numbers)} Tell me a long story."}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return post(body)


def _row(level: Level, name: str, waves: list[Wave]) -> dict[str, Any]:
    outcomes: list[Outcome] = [outcome for done in waves for outcome in done.outcomes]
    rates = [done.tokens_per_second for done in waves]
    return {
        "engine": name,
        "streams": level.streams,
        "tokens_per_second": round(statistics.median(rates), 1),
        "rounds": [round(rate, 1) for rate in rates],
        "first_token_ms": milliseconds([outcome.wait for outcome in outcomes]),
    }


@contextlib.contextmanager
def fleet(models: Path) -> Iterator[dict[str, Service]]:
    """Start a service for each engine that is installed, one after the other; end them all.

    Args:
        models: the folder with the embedded model.
    """
    settings = Settings.load(os.environ)
    with contextlib.ExitStack() as held:
        place = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="bench-models-")))
        services = {}
        for name in BUILT_IN:
            if missing := adapter(name, settings).missing():
                _say(f"{name} is left out: {missing}")
                continue
            _say(f"starting {name}")
            environ = {
                "MODELS_DIR": str(_models(name, models, place)),
                "DEFAULT_MODEL": EMBEDDED.name,
                "INFERENCE_ENGINE": name,
                "VLLM_PYTHON": settings.vllm_python,
                "MAX_CONCURRENT_REQUESTS": "100",
                # Where an owner names a BLAS for MLX that stands in no usual place.
                "LD_PRELOAD": os.environ.get("LD_PRELOAD", ""),
            }
            service = running(EMBEDDED.name, environ, START_SECONDS)
            services[name] = held.enter_context(service)
        yield services


def _models(name: str, models: Path, place: Path) -> Path:
    """Find or make the folder from which an engine loads the embedded model."""
    target = adapter(name, Settings.load({})).conversion
    if target is None:
        return models
    from vllm_obtain.catalogue.convert.run import convert

    source = place / f"{target}-source" / EMBEDDED.path(models).name
    source.parent.mkdir()
    source.symlink_to(EMBEDDED.path(models))
    made = place / target / EMBEDDED.name
    made.parent.mkdir()
    convert(source, target, lambda _: None).rename(made)
    return made.parent


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little of everything, for a test")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    levels = QUICK if asked.quick else FULL
    try:
        with fleet(asked.models.absolute()) as services:
            rows = measure(services, levels)
    except (NotStarted, RuntimeError, TimeoutError, OSError) as error:
        print(f"The benchmark broke off: {error or type(error).__name__}", file=sys.stderr)
        return 2
    figures = {"engines": _versions(list(services)), "rows": rows}
    path = asked.results / ("engines-quick" if asked.quick else "engines")
    engines_report.write(path, [asdict(level) for level in levels], figures)
    return 0


def _versions(names: list[str]) -> dict[str, str]:
    """Name what was measured, and the library that MLX multiplies with on a processor."""
    settings = Settings.load(os.environ)
    found = {name: detect.facts(name, settings).version or "?" for name in names}
    if "mlx" in found and describe().device == "cpu":
        blas = preload(describe().performance_cores).get("LD_PRELOAD", "none found")
        found["OpenBLAS for mlx"] = Path(blas.split(":")[0]).name
    return found


def _say(text: str) -> None:
    print(f"[{time.monotonic() - _BEGAN:4.0f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
