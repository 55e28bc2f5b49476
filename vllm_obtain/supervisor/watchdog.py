"""Ends engines that have work and make no step. They are started again as after a crash.

That a socket answers says little: an engine may serve /health for ever while no token comes. What
counts is its own counter of steps (`engines/vitals.py`), which a long prompt moves too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vllm_obtain.engines.vitals import Vitals
from vllm_obtain.log import get_logger
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.states import State

log = get_logger("vllm_obtain.models")

# Looks within STALL_SECONDS, and the longest time between two, in seconds.
LOOKS = 8
LONGEST = 10.0


@dataclass
class _Watched:
    """What is known of one process."""

    pid: int | None
    last: Vitals | None = None
    looked: float = field(default_factory=time.monotonic)


class Watchdog:
    """Looks at engines that have requests.

    Args:
        stall: STALL_SECONDS; 0 for never.
        engines: lists all engines.
    """

    def __init__(self, stall: float, engines: Callable[[], Sequence[Engine]]) -> None:
        self._stall = stall
        self._engines = engines
        self._watched: dict[Engine, _Watched] = {}
        self._interval = min(LONGEST, stall / LOOKS)

    async def run(self) -> None:
        """Go on until cancelled; returns at once when it is off."""
        while self._stall:
            await asyncio.sleep(self._interval)
            working = [each for each in self._engines() if _works(each)]
            for engine in set(self._watched) - set(working):
                del self._watched[engine]
                engine.quiet = 0.0
            await asyncio.gather(*map(self._look, working))

    async def _look(self, engine: Engine) -> None:
        known = self._watched.get(engine)
        if known is None or known.pid != engine.pid:
            known = self._watched[engine] = _Watched(engine.pid)
            engine.quiet = 0.0
        alive, vitals = await engine.vitals(self._interval)
        if not _works(engine) or known.pid != engine.pid:
            return
        now = time.monotonic()
        # A machine that slept, or a supervisor that was stopped, has missed steps.
        passed = min(now - known.looked, 2 * self._interval)
        moved = alive and (vitals is None or _advanced(vitals, known.last))
        known.looked, known.last = now, vitals or known.last
        engine.quiet = 0.0 if moved else engine.quiet + passed
        if engine.quiet < self._stall:
            return
        if vitals is not None and not vitals.busy and await engine.says_something(self._stall):
            # It has nothing to do: its client reads slowly, or its last token is on its way.
            engine.quiet = 0.0
            return
        await self._end(engine)

    async def _end(self, engine: Engine) -> None:
        reason = (
            f"stalled: {engine.users} requests, and no step for {engine.quiet:.0f} s "
            f"(STALL_SECONDS={self._stall:g})"
        )
        await engine.end(reason)


def _works(engine: Engine) -> bool:
    return (
        engine.state in (State.READY, State.DRAINING)
        and engine.admission is not None
        and engine.admission.in_flight > 0
    )


def _advanced(now: Vitals, before: Vitals | None) -> bool:
    return before is None or now.steps != before.steps
