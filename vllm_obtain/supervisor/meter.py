"""Measuring the machine and the engines beside the supervisor's loop.

The memory of a large process takes milliseconds to add up, and a driver may hang for good; a
lease must wait for neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from vllm_obtain.hardware import most_memory, process_memory, sample

PATIENCE = 1.0


@dataclass(frozen=True)
class Reading:
    """What was measured.

    Args:
        system: see `hardware.sample`.
        memory: bytes of each process that still ran, by pid.
    """

    system: dict[str, float] = field(default_factory=dict)
    memory: dict[int, int | None] = field(default_factory=dict)


class Meter:
    """Measures in one thread, so that CPU time is always counted since the last measurement."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "meter")
        self._running: asyncio.Future[Reading] | None = None
        self._last = Reading()

    async def read(self, pids: Sequence[int] = ()) -> Reading:
        """Measure, or join the measurement under way; the last one if it takes too long.

        Args:
            pids: the engines' processes.
        """
        if self._running is None or self._running.done():
            loop = asyncio.get_running_loop()
            self._running = loop.run_in_executor(self._thread, _measure, tuple(pids))
        await asyncio.wait({self._running}, timeout=PATIENCE)
        if self._running.done():
            self._last = self._running.result()
        return self._last

    async def weigh(self, pids: Sequence[int], exactly: bool) -> dict[int, int | None]:
        """Measure processes now, however long it takes.

        Args:
            pids: the engines' processes.
            exactly: False when it is enough to know what they take at most.
        """
        loop = asyncio.get_running_loop()
        measure = _weigh if exactly else _guess
        return await loop.run_in_executor(self._thread, measure, tuple(pids))

    def close(self) -> None:
        """Measure no more; one that hangs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _weigh(pids: tuple[int, ...]) -> dict[int, int | None]:
    return {pid: process_memory(pid) for pid in pids}


def _guess(pids: tuple[int, ...]) -> dict[int, int | None]:
    return {pid: most_memory(pid) for pid in pids}


def _measure(pids: tuple[int, ...]) -> Reading:
    return Reading(sample(), _weigh(pids))
