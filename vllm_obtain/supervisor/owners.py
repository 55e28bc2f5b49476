"""Whose supervisor this is: it lives as long as one of its owners does."""

from __future__ import annotations

import asyncio

import psutil

INTERVAL = 0.5


def started(pid: int) -> float | None:
    """When a process started, in seconds since the epoch, or None when it is gone.

    A zombie is gone: nobody is at home, and its parent may never look.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.Error:
        return None


class Owners:
    """A set of processes, told apart by pid and start time, since pids are reused."""

    def __init__(self) -> None:
        self._owners: set[tuple[int, float]] = set()

    def add(self, pid: int, start: float) -> None:
        """Note one more owner."""
        self._owners.add((pid, start))

    def alive(self) -> bool:
        """Whether one of them still runs; those that do not are forgotten."""
        self._owners = {
            (pid, start)
            for pid, start in self._owners
            if (now := started(pid)) is not None and abs(now - start) < 1.0
        }
        return bool(self._owners)

    async def until_gone(self) -> None:
        """Wait for the end of the last owner."""
        while self.alive():
            await asyncio.sleep(INTERVAL)
