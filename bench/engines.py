"""`python -m bench.engines`: compare the engines on this machine, each through the service.

Each engine is loaded in its own service. They run in turns; an idle engine uses no CPU time.
VLLM_PYTHON is the interpreter that has vLLM. Engines that are not installed are skipped.
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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import engines_report
from bench.client import Outcome, Wave, post, wave
from bench.progress import Progress, Step
from bench.service import ROOT, NotStarted, Service, start_service
from bench.stats import milliseconds
from vllm_obtain.config.settings import Settings
from vllm_obtain.download.bundled_model import EMBEDDED
from vllm_obtain.engines.detection import detect
from vllm_obtain.engines.mlx.openblas import preload
from vllm_obtain.engines.registry import BUILT_IN, adapter
from vllm_obtain.hardware.machine import describe

START_SECONDS = 300.0
WAVE_SECONDS = 180.0
# MLX takes minutes on a CPU with more streams than this.
MAX_STREAMS = {"mlx": 8}
_numbers = itertools.count(100_000)


@dataclass(frozen=True)
class Level:
    """Number of concurrent requests, of rounds, and of completion tokens per request."""

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


def steps(levels: tuple[Level, ...]) -> list[Step]:
    """List the steps of `measure`."""
    return [
        Step(
            f"{each.streams} streams",
            (each.rounds + 1) * each.streams * each.tokens / 40,
            each.rounds + 1,
        )
        for each in levels
    ]


def measure(
    services: Mapping[str, Service], levels: tuple[Level, ...], progress: Progress
) -> list[dict[str, Any]]:
    """Measure all levels. The engines run in turns, in alternating order.

    Args:
        services: services by engine.
        levels: amount of work.
        progress: shows the steps of `steps`.

    Returns:
        A row per level and engine.

    Raises:
        RuntimeError: a request failed.
    """
    rows = []
    for level in levels:
        names = [name for name in services if level.streams <= MAX_STREAMS.get(name, level.streams)]
        progress.next_step()
        results: dict[str, list[Wave]] = {name: [] for name in names}
        for number in range(level.rounds + 1):
            progress.next_round()
            for name in names if number % 2 else reversed(names):
                result = _round(services[name], level)
                if number:  # the first round is a warm-up
                    results[name].append(result)
        rows += [_row(level, name, waves) for name, waves in results.items()]
    return rows


def _round(service: Service, level: Level) -> Wave:
    requests = [_request(level.tokens) for _ in range(level.streams)]

    async def run() -> Wave:
        async with asyncio.timeout(WAVE_SECONDS):
            return await wave(service.gateway, requests)

    result = asyncio.run(run())
    if result.failures:
        raise RuntimeError(f"{level.streams} streams: {result.failures[0]}")
    return result


def _request(tokens: int) -> bytes:
    """Build a request. Its prompt starts with a unique number, so it is in no prefix cache."""
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
    outcomes: list[Outcome] = [outcome for each in waves for outcome in each.outcomes]
    rates = [each.tokens_per_second for each in waves]
    return {
        "engine": name,
        "streams": level.streams,
        "tokens_per_second": round(statistics.median(rates), 1),
        "rounds": [round(rate, 1) for rate in rates],
        "ttft_ms": milliseconds([outcome.ttft for outcome in outcomes]),
    }


@contextlib.contextmanager
def engine_services(models: Path) -> Iterator[dict[str, Service]]:
    """Start a service for each installed engine, and stop all of them after the block.

    Args:
        models: folder with the embedded model.
    """
    settings = Settings.load(os.environ)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-models-")))
        services = {}
        for name in BUILT_IN:
            if missing := adapter(name, settings).why_unavailable():
                _log(f"{name} is skipped: {missing}")
                continue
            _log(f"starting {name}")
            environ = {
                "MODELS_DIR": str(_models(name, models, folder)),
                "DEFAULT_MODEL": EMBEDDED.name,
                "INFERENCE_ENGINE": name,
                "VLLM_PYTHON": settings.vllm_python,
                "MAX_CONCURRENT_REQUESTS": "100",
                # A BLAS for MLX in an unusual place.
                "LD_PRELOAD": os.environ.get("LD_PRELOAD", ""),
            }
            service = start_service(EMBEDDED.name, environ, START_SECONDS)
            services[name] = stack.enter_context(service)
        yield services


def _models(name: str, models: Path, folder: Path) -> Path:
    """Return a folder with the embedded model in the format of an engine."""
    target = adapter(name, Settings.load({})).conversion
    if target is None:
        return models
    from vllm_obtain.models.convert.convert import convert

    source = folder / f"{target}-source" / EMBEDDED.path(models).name
    source.parent.mkdir()
    source.symlink_to(EMBEDDED.path(models))
    converted = folder / target / EMBEDDED.name
    converted.parent.mkdir()
    convert(source, target, lambda _: None).rename(converted)
    return converted.parent


def main() -> int:
    """Measure, print the table, write the files."""
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run a short version, for a test")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    levels = QUICK if arguments.quick else FULL
    try:
        with (
            engine_services(arguments.models.absolute()) as services,
            Progress(steps(levels)) as progress,
        ):
            rows = measure(services, levels, progress)
    except (NotStarted, RuntimeError, TimeoutError, OSError) as error:
        print(f"The benchmark failed: {error or type(error).__name__}", file=sys.stderr)
        return 2
    figures = {"engines": _versions(list(services)), "rows": rows}
    path = arguments.results / ("engines-quick" if arguments.quick else "engines")
    engines_report.write(path, [asdict(level) for level in levels], figures)
    return 0


def _versions(names: list[str]) -> dict[str, str]:
    """Return the versions of the engines, and the BLAS that MLX uses on a CPU."""
    settings = Settings.load(os.environ)
    versions = {name: detect.facts(name, settings).version or "?" for name in names}
    if "mlx" in versions and describe().device == "cpu":
        blas = preload(describe().performance_cores).get("LD_PRELOAD", "none found")
        versions["OpenBLAS for mlx"] = Path(blas.split(":")[0]).name
    return versions


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
