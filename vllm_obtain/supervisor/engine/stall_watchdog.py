"""Stall watchdog: stops engines that have requests but make no step, so that they restart.

A stalled engine may still respond to /health. So the watchdog reads the engine's counter of steps
(`engines/step_counter.py`), which also counts during the prefill of a long prompt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vllm_obtain.engines.step_counter import StepReading
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.engine.states import EngineState

log = get_logger("vllm_obtain.models")

# Checks within STALL_SECONDS, and the longest interval between two checks in seconds.
CHECKS = 8
MAX_INTERVAL = 10.0


@dataclass
class _Watched:
    """The last reading of one process."""

    pid: int | None
    last: StepReading | None = None
    checked_at: float = field(default_factory=time.monotonic)


class StallWatchdog:
    """Monitors engines that have requests.

    Args:
        stall: STALL_SECONDS; 0 disables the watchdog.
        engines: lists all engines.
    """

    def __init__(self, stall: float, engines: Callable[[], Sequence[Engine]]) -> None:
        self._stall = stall
        self._engines = engines
        self._watched: dict[Engine, _Watched] = {}
        self._interval = min(MAX_INTERVAL, stall / CHECKS)

    async def run(self) -> None:
        """Run until cancelled. Returns at once if the watchdog is disabled."""
        while self._stall:
            await asyncio.sleep(self._interval)
            working = [engine for engine in self._engines() if _is_working(engine)]
            for engine in set(self._watched) - set(working):
                del self._watched[engine]
                engine.quiet = 0.0
            await asyncio.gather(*map(self._check, working))

    async def _check(self, engine: Engine) -> None:
        watched = self._watched.get(engine)
        if watched is None or watched.pid != engine.pid:
            watched = self._watched[engine] = _Watched(engine.pid)
            engine.quiet = 0.0
        alive, reading = await engine.read_steps(self._interval)
        if not _is_working(engine) or watched.pid != engine.pid:
            return
        now = time.monotonic()
        # After a suspend of the machine or the supervisor, the elapsed time does not count.
        elapsed = min(now - watched.checked_at, 2 * self._interval)
        has_progress = alive and (reading is None or _has_advanced(reading, watched.last))
        watched.checked_at, watched.last = now, reading or watched.last
        engine.quiet = 0.0 if has_progress else engine.quiet + elapsed
        if engine.quiet < self._stall:
            return
        if reading is not None and not reading.busy and await engine.can_generate(self._stall):
            # The engine is idle: its client reads slowly, or the last token is in transit.
            engine.quiet = 0.0
            return
        await self._end(engine)

    async def _end(self, engine: Engine) -> None:
        reason = (
            f"stalled: no step for {engine.quiet:.0f} s with {engine.users} requests "
            f"(STALL_SECONDS={self._stall:g})"
        )
        await engine.end(reason)


def _is_working(engine: Engine) -> bool:
    return (
        engine.state in (EngineState.READY, EngineState.DRAINING)
        and engine.admission is not None
        and engine.admission.in_flight > 0
    )


def _has_advanced(now: StepReading, before: StepReading | None) -> bool:
    return before is None or now.steps != before.steps
