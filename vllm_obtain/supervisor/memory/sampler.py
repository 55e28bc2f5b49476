"""Samples of machine and process metrics, taken in threads.

Measuring a large process takes milliseconds, and a driver may hang. Leases must not wait for
either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from vllm_obtain.hardware.machine import most_memory, process_memory, sample

TIMEOUT = 1.0


@dataclass(frozen=True)
class ResourceSample:
    """One sample.

    Args:
        system: metrics of the machine, as returned by `hardware.machine.sample`.
        memory: bytes of each process by pid, None if it has ended.
    """

    system: dict[str, float] = field(default_factory=dict)
    memory: dict[int, int | None] = field(default_factory=dict)


class ResourceSampler:
    """Takes samples in one thread, so that CPU time counts from the last sample."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "meter")
        # A sample that hangs must not stop the memory watchdogs.
        self._memory_thread = ThreadPoolExecutor(1, "memory")
        self._running: asyncio.Future[ResourceSample] | None = None
        self._last = ResourceSample()

    async def read(self, pids: Sequence[int] = ()) -> ResourceSample:
        """Take a sample, or join the running one. Returns the last sample if it takes too long.

        Args:
            pids: pids of the engines.
        """
        if self._running is None or self._running.done():
            loop = asyncio.get_running_loop()
            self._running = loop.run_in_executor(self._thread, _take_sample, tuple(pids))
        await asyncio.wait({self._running}, timeout=TIMEOUT)
        if self._running.done():
            self._last = self._running.result()
        return self._last

    async def measure_memory(self, pids: Sequence[int], exactly: bool) -> dict[int, int | None]:
        """Measure the memory of processes, without a timeout.

        Args:
            pids: pids of the engines.
            exactly: False for a fast upper bound.
        """
        loop = asyncio.get_running_loop()
        measure = _exact_memory if exactly else _upper_bound
        return await loop.run_in_executor(self._memory_thread, measure, tuple(pids))

    def close(self) -> None:
        """Stop the threads, without waiting for a hanging measurement."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._memory_thread.shutdown(wait=False, cancel_futures=True)


def _exact_memory(pids: tuple[int, ...]) -> dict[int, int | None]:
    return {pid: process_memory(pid) for pid in pids}


def _upper_bound(pids: tuple[int, ...]) -> dict[int, int | None]:
    return {pid: most_memory(pid) for pid in pids}


def _take_sample(pids: tuple[int, ...]) -> ResourceSample:
    return ResourceSample(sample(), _exact_memory(pids))
