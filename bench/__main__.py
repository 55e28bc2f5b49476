"""`python -m bench [--quick] [--results DIR]`; exit status 1 if a target is missed."""

from __future__ import annotations

import argparse
import contextlib
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from bench import limit, open_streams, overhead, relay, report, translate
from bench.checks import Check
from bench.plan import FULL, QUICK, Plan
from bench.progress import Progress, Step
from bench.service import ROOT, NotStarted
from bench.stub import stub_service
from vllm_obtain.download.bundled_model import EMBEDDED

_FAILED = 2


def main() -> int:
    """Measure, print the table, write the files."""
    arguments = _arguments()
    plan = QUICK if arguments.quick else FULL
    signal.signal(signal.SIGTERM, _terminate)
    _raise_file_limit()
    try:
        figures, checks = _measure(plan, arguments.models)
    except (NotStarted, RuntimeError, TimeoutError) as error:
        print(f"The benchmark failed: {error or type(error).__name__}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print("Interrupted. All processes are stopped.", file=sys.stderr)
        return _FAILED
    report.show(checks)
    name = "gateway-quick" if arguments.quick else "gateway"
    target = arguments.results / f"{name}.json"
    report.write(target, asdict(plan), figures, checks)
    report.markdown(target.with_suffix(".md"), checks)
    _draw(target.with_suffix(".png"), figures)
    print(f"Results: {target}")
    return int(any(check.ok is False for check in checks))


def _measure(plan: Plan, models: Path) -> tuple[dict[str, Any], list[Check]]:
    figures: dict[str, Any] = {}
    checks: list[Check] = []
    steps = [
        *overhead.steps(plan),
        Step("validation and translation", 5),
        *relay.steps(plan),
        *open_streams.steps(plan),
        Step("connection limit", 5),
    ]
    with Progress(steps) as progress:
        figures["overhead"], verdicts = overhead.measure(plan, models, progress)
        checks += verdicts
        progress.next_step()
        figures["translation"], verdicts = translate.measure(models)
        checks += verdicts
        with stub_service({}) as service:
            figures["relay"], verdicts = relay.measure(plan, service, progress)
        checks += verdicts
        with stub_service({}) as service:
            figures["open_streams"], verdicts = open_streams.measure(plan, service, progress)
        checks += verdicts
        progress.next_step()
        with stub_service({"WORKER_CONNECTIONS": str(limit.LIMIT)}) as service:
            figures["limit"], verdicts = limit.measure(service)
        checks += verdicts
    return figures, checks


def _draw(path: Path, figures: dict[str, Any]) -> None:
    try:
        from bench.plot import draw

        draw(path, figures, report.machine())
    except ImportError:
        print("No plot: matplotlib is not installed. Run pip install '.[bench]'.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run a short version, for a test")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "bench" / "results", help="folder for the results"
    )
    parser.add_argument("--models", type=Path, default=ROOT / "models", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.models = arguments.models.absolute()
    if not EMBEDDED.path(arguments.models).is_file():
        parser.error("the embedded model is missing; run `make model` to download it")
    return arguments


def _raise_file_limit() -> None:
    """Allow as many open files as a client of a thousand streams needs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _terminate(*_: object) -> NoReturn:
    # Unwind as on Ctrl-C, so that all processes are stopped.
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
