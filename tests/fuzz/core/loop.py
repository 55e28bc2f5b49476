"""Runs a target: counts, holds each execution to its bounds, and makes what fails small."""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Protocol

# Seconds of its own time that one execution may take.
SECONDS = 1.0
# What one execution may take of memory beyond what the process had when it began.
MEMORY = 512 * 2**20
# How much the whole run may grow.
GROWTH = 64 * 2**20
# Executions between two reports of progress.
PROGRESS = 1000

Case = list[bytes]


class Target(Protocol):
    """What is fed."""

    name: str

    def make(self, chance: Random) -> Case:
        """Make up what it is fed with, in pieces."""

    def run(self, case: Case) -> None:
        """Feed it; what it may raise is caught here, anything else is a finding."""


class TooLong(Exception):
    """An execution took more than SECONDS."""


@dataclass
class Outcome:
    """What a run came to.

    Args:
        executions: how many there were.
        seconds: how long they took.
        growth: by how many bytes the process grew meanwhile.
        case: what failed, made small; None if nothing did.
        error: how.
    """

    executions: int
    seconds: float
    growth: int
    case: Case | None = None
    error: str = ""

    @property
    def failed(self) -> bool:
        return self.case is not None or self.growth > GROWTH


def fuzz(
    target: Target, executions: int, seed: int, on_progress: Callable[[int], None] | None = None
) -> Outcome:
    """Run a target until it fails or the executions are done.

    Args:
        target: the target.
        executions: maximum number of executions.
        seed: seed of the random numbers.
        on_progress: called with the number of executions now and then.
    """
    chance = Random(f"{target.name} {seed}")  # noqa: S311 - not a secret
    began, before = time.monotonic(), 0
    with _resource_limits():
        for number in range(executions):
            if number == min(2000, executions // 2):
                before = _peak()  # by now every cache and table is there
            if on_progress is not None and number % PROGRESS == 0:
                on_progress(number)
            case = target.make(chance)
            if _fails(target, case):
                small = _smaller(target, case)
                return Outcome(
                    number + 1, time.monotonic() - began, 0, small, _traceback(target, small)
                )
    return Outcome(executions, time.monotonic() - began, _peak() - before)


def _fails(target: Target, case: Case) -> bool:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        target.run(case)
    except Exception:
        return True
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return False


def _traceback(target: Target, case: Case) -> str:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        target.run(case)
    except Exception:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "it does not fail a second time"


def _smaller(target: Target, case: Case) -> Case:
    """Leave out pieces, and parts of pieces, as long as it fails."""
    for size in (1 << power for power in range(12, -1, -1)):
        for piece in range(len(case) - 1, -1, -1):
            if len(case) > 1 and _fails(target, shorter := case[:piece] + case[piece + 1 :]):
                case = shorter
                continue
            at = 0
            while at < len(case[piece]):
                cut = case[piece][:at] + case[piece][at + size :]
                shorter = [*case[:piece], cut, *case[piece + 1 :]]
                if _fails(target, shorter):
                    case = shorter
                else:
                    at += size
    return case


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def _resource_limits() -> Iterator[None]:
    """Have what takes too long, or too much memory, raise."""

    def ring(*_: object) -> None:
        raise TooLong

    handler = signal.signal(signal.SIGPROF, ring)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:  # noqa: PTH123 - one line of the kernel's
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, handler)
