"""Whose supervisor this is: it lives as long as one of its owners does."""

from __future__ import annotations

import asyncio

import psutil

INTERVAL = 0.5
# The two sides read a start time within moments of each other, so this is far more than they
# can differ by, and far less than a pid takes to come round again.
SAME_START = 1.0


def started(pid: int) -> float | None:
    """When a process started, in seconds since the epoch, or None when it is gone.

    Compare it soon: it moves with the system's clock.
    """
    try:
        process = psutil.Process(pid)
        return float(process.create_time()) if _lives(process) else None
    except psutil.Error:
        return None


class Owners:
    """A set of processes, told apart by pid and start time, since pids are reused."""

    def __init__(self) -> None:
        self._owners: set[psutil.Process] = set()

    def add(self, pid: int, start: float) -> None:
        """Note one more owner; one that is gone already is left out.

        Args:
            pid: its pid.
            start: when it started, as `started` said.
        """
        now = started(pid)
        if now is None or abs(now - start) > SAME_START:
            return
        try:
            # From here on psutil tells it from a later process with its pid, by a clock that is
            # never set: start times since the epoch jump when the system's clock is corrected.
            self._owners.add(psutil.Process(pid))
        except psutil.Error:
            return

    def alive(self) -> bool:
        """Whether one of them still runs; those that do not are forgotten."""
        self._owners = {owner for owner in self._owners if _lives(owner)}
        return bool(self._owners)

    async def until_gone(self) -> None:
        """Wait for the end of the last owner."""
        while self.alive():
            await asyncio.sleep(INTERVAL)


def _lives(process: psutil.Process) -> bool:
    """Whether a process runs. A zombie does not, and its parent may never look."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
