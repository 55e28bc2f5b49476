"""Whose supervisor this is: it lives as long as one of its owners does."""

from __future__ import annotations

import asyncio

import psutil

INTERVAL = 0.5
# Far more than two readings differ by, and less than a pid takes to come round again.
SAME_START = 1.0


def started(pid: int) -> float | None:
    """When a process started, in seconds, or None when it is gone.

    Since the machine's own start where the system counts like that, else since the epoch: either
    way the same number whatever becomes of the clock.
    """
    try:
        process = psutil.Process(pid)
        if not _lives(process):
            return None
        base = psutil.boot_time() if psutil.LINUX else 0.0
        return float(process.create_time() - base)
    except (psutil.Error, ValueError, OverflowError):  # no pid is below 0, or that large
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
            # From here on psutil tells it from a later process with its pid.
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
