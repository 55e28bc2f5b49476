"""Heartbeats: replace processes whose event loop is blocked or stopped.

Two watches complement each other. `LoopWatchdog` ends its own process: a thread of `faulthandler`,
which needs no interpreter lock, writes the stacks of all threads and ends the process if the loop
has not set it back in time. A process that is stopped (SIGSTOP) runs no threads, so workers also
ask the supervisor for a sign of life (`SupervisorHeartbeat`), and the supervisor ends workers that
no longer ask (`WorkerHeartbeats`).

Times are monotonic, which do not count while a laptop sleeps.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from vllm_obtain.control.client import SupervisorClient
from vllm_obtain.control.owners import start_time
from vllm_obtain.control.runtime_dir import STACKS
from vllm_obtain.errors import ServiceError
from vllm_obtain.fs import read_own
from vllm_obtain.logs.setup import get_logger

log = get_logger("vllm_obtain.heartbeat")

# Seconds between two heartbeats.
INTERVAL = 1.0
# Seconds after HEARTBEAT_SECONDS in which a blocked worker can end by its own watchdog, which
# writes its stacks.
_WATCHDOG_SECONDS = 3.0


class LoopWatchdog:
    """Ends this process if its event loop is blocked.

    Args:
        folder: the runtime folder, for the file with the stacks.
        limit: HEARTBEAT_SECONDS; 0 disables the watchdog.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self._limit = limit
        self._path = folder / f"{STACKS}{os.getpid()}"
        self._file = None
        if limit:
            with contextlib.suppress(OSError):
                fd = os.open(
                    self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
                )
                self._file = os.fdopen(fd, "wb", buffering=0)

    def beat(self) -> None:
        """Set the watchdog back. The event loop calls this every INTERVAL seconds."""
        if self._file is not None:
            faulthandler.dump_traceback_later(self._limit, exit=True, file=self._file)

    def close(self) -> None:
        """Stop the watchdog, and remove its file."""
        faulthandler.cancel_dump_traceback_later()
        if self._file is not None:
            self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)


def report_stacks(folder: Path) -> None:
    """Log the stacks of processes that a watchdog has ended, and remove their files.

    Args:
        folder: the runtime folder.
    """
    for path in folder.glob(f"{STACKS}*"):
        pid = int(path.name.removeprefix(STACKS))
        if start_time(pid) is not None:
            continue
        stacks = read_own(path)
        try:
            path.unlink()
        except OSError:
            continue  # another process has reported it
        if stacks:
            log.error("blocked process ended", blocked_pid=pid, stacks=stacks)


class SupervisorHeartbeat:
    """Replaces a supervisor that does not reply.

    Args:
        client: of the supervisor.
        limit: HEARTBEAT_SECONDS; 0 disables it.
        clock: monotonic seconds.
    """

    def __init__(
        self, client: SupervisorClient, limit: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._limit = limit
        self._clock = clock
        # The supervisor that replied last: its pid and start time, since pids are reused.
        self._last: tuple[int, float] | None = None
        # Seconds without a reply.
        self.silence = 0.0

    def run(self) -> None:
        """Run forever; returns at once if the heartbeat is disabled."""
        while self._limit:
            self.check()
            time.sleep(INTERVAL)

    def check(self) -> None:
        """Ask the supervisor once, and replace it if it has been silent for too long."""
        began = self._clock()
        pid = self._client.ping(INTERVAL)
        if pid is not None:
            self._last, self.silence = (pid, start_time(pid) or 0.0), 0.0
            return
        if self._last is None or start_time(self._last[0]) != self._last[1]:
            # It has ended. The next request starts another one.
            self._last, self.silence = None, 0.0
            return
        # At most two intervals: this process may have been stopped itself.
        self.silence += min(self._clock() - began + INTERVAL, 2 * INTERVAL)
        if self.silence >= self._limit:
            self._replace(self._last[0])

    def _replace(self, pid: int) -> None:
        log.error("supervisor replaced", silent_pid=pid, seconds=round(self.silence, 1))
        self._last, self.silence = None, 0.0
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ServiceError):
            self._client.ensure_running()


class WorkerHeartbeats:
    """Ends workers that are stopped; gunicorn replaces them.

    Args:
        limit: HEARTBEAT_SECONDS; 0 disables it.
        clock: monotonic seconds.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._last_check = clock()
        # Start time of each worker, since pids are reused, and the seconds since its heartbeat.
        self._workers: dict[int, tuple[float | None, float]] = {}

    def note(self, pid: int) -> None:
        """Record a heartbeat of a worker."""
        known = self._workers.get(pid)
        self._workers[pid] = (known[0] if known else start_time(pid), 0.0)

    def check(self) -> None:
        """End the workers that are silent for too long. To be called every INTERVAL seconds."""
        now = self._clock()
        # At most two intervals: this process may have been stopped itself.
        passed = min(now - self._last_check, 2 * INTERVAL)
        self._last_check = now
        for pid, (started, silence) in list(self._workers.items()):
            self._workers[pid] = (started, silence + passed)
            if silence < 2 * INTERVAL:
                continue
            if started is None or start_time(pid) != started:
                del self._workers[pid]  # it has ended
            elif self._limit and silence >= self._limit + _WATCHDOG_SECONDS:
                del self._workers[pid]
                log.error("worker replaced", silent_pid=pid, seconds=round(silence, 1))
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
