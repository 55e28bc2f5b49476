"""`python -m bench [--quick] [--results DIR]`; exit status 1 when a target is missed."""

from __future__ import annotations

import argparse
import contextlib
import resource
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from bench import limit, open_streams, relay, report, tax, translate
from bench.checks import Check
from bench.plan import FULL, QUICK, Plan
from bench.service import ROOT, NotStarted
from bench.stub import stubbed
from vllm_obtain.catalogue.embedded import EMBEDDED

_BROKEN = 2
_BEGAN = time.monotonic()


def main() -> int:
    """Measure, print, write."""
    arguments = _arguments()
    plan = QUICK if arguments.quick else FULL
    signal.signal(signal.SIGTERM, _terminated)
    _raise_file_limit()
    try:
        figures, checks = _measure(plan, arguments.models)
    except (NotStarted, RuntimeError, TimeoutError) as error:
        print(f"The benchmark broke off: {error or type(error).__name__}", file=sys.stderr)
        return _BROKEN
    except KeyboardInterrupt:
        print("Interrupted; everything that was started is ended.", file=sys.stderr)
        return _BROKEN
    report.show(checks)
    name = "gateway-quick" if arguments.quick else "gateway"
    target = arguments.results / f"{name}.json"
    report.write(target, asdict(plan), figures, checks)
    report.markdown(target.with_suffix(".md"), checks)
    _draw(target.with_suffix(".png"), figures)
    print(f"Written: {target}")
    return int(any(check.ok is False for check in checks))


def _measure(plan: Plan, models: Path) -> tuple[dict[str, Any], list[Check]]:
    figures: dict[str, Any] = {}
    checks: list[Check] = []
    _say("the tax: the embedded model, bare and through the gateway in turns")
    figures["tax"], verdicts = tax.measure(plan, models)
    checks += verdicts
    _say("checking and translating requests")
    figures["translation"], verdicts = translate.measure(models)
    checks += verdicts
    with stubbed({}) as service:
        _say("relay capacity: a stub engine directly, through nginx, and through the gateway")
        figures["relay"], verdicts = relay.measure(plan, service)
        checks += verdicts
    with stubbed({}) as service:
        _say(f"{plan.open_streams:,} open streams on one worker")
        figures["open_streams"], verdicts = open_streams.measure(plan, service)
        checks += verdicts
    with stubbed({"WORKER_CONNECTIONS": str(limit.LIMIT)}) as service:
        _say("the connection limit")
        figures["limit"], verdicts = limit.measure(service)
        checks += verdicts
    return figures, checks


def _draw(path: Path, figures: dict[str, Any]) -> None:
    try:
        from bench.plot import draw

        draw(path, figures, report.machine())
    except ImportError:
        print("No plot: matplotlib is not installed (pip install '.[bench]').")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little of everything, for a test")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.models = arguments.models.absolute()
    if not EMBEDDED.path(arguments.models).is_file():
        parser.error("the embedded model is not there; `make model` fetches it")
    return arguments


def _raise_file_limit() -> None:
    """Allow a client of a thousand streams its descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _terminated(*_: object) -> NoReturn:
    # Unwinds as Ctrl-C does, so that everything started is ended.
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(f"[{time.monotonic() - _BEGAN:4.0f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
