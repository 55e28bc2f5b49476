"""The owners of a supervisor: processes that keep it running."""

from __future__ import annotations

import asyncio

import psutil

INTERVAL = 0.5
# Seconds; far above the error of a start time, and below the time until a pid is reused.
SAME_START = 1.0


def start_time(pid: int) -> float | None:
    """Return the start time of a process in seconds, or None if it does not run.

    The time counts from boot on Linux and from the epoch elsewhere, so changes of the system
    clock do not affect it.
    """
    try:
        process = psutil.Process(pid)
        if not _is_running(process):
            return None
        base = psutil.boot_time() if psutil.LINUX else 0.0
        return float(process.create_time() - base)
    except (psutil.Error, ValueError, OverflowError):  # the pid is negative or too large
        return None


class Owners:
    """A set of processes, identified by pid and start time, since pids are reused."""

    def __init__(self) -> None:
        self._owners: set[psutil.Process] = set()

    def add(self, pid: int, start: float) -> None:
        """Add an owner, unless its process has already ended.

        Args:
            pid: pid of the process.
            start: its start time, as returned by `start_time`.
        """
        now = start_time(pid)
        if now is None or abs(now - start) > SAME_START:
            return
        try:
            # psutil.Process objects compare by pid and start time.
            self._owners.add(psutil.Process(pid))
        except psutil.Error:
            return

    def alive(self) -> bool:
        """Whether an owner still runs. Ended ones are dropped."""
        self._owners = {owner for owner in self._owners if _is_running(owner)}
        return bool(self._owners)

    async def wait_until_empty(self) -> None:
        """Wait until the last owner has ended."""
        while self.alive():
            await asyncio.sleep(INTERVAL)


def _is_running(process: psutil.Process) -> bool:
    """Whether a process runs. A zombie counts as ended, since its parent may never reap it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
