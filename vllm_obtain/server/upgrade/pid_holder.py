"""Keeps the pid that systemd, Docker or a terminal watches alive after an upgrade.

Forwards signals to the current master and ends when no master is left. Uses the standard library
only, because it keeps running while newer versions are installed. Run as a file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

INTERVAL = 0.3
FORWARDED_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class PidHolder:
    """Waits for the end of a service.

    Args:
        files: files in which a master writes its pid.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._ended: dict[int, int] = {}
        self._last = 0

    def run(self) -> int:
        """Wait for the end of the service.

        Returns:
            Exit status of the last master; 0 if unknown.
        """
        for number in FORWARDED_SIGNALS:
            signal.signal(number, self._forward)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        # A child may be an old version that finishes its requests after the new one has ended.
        while self._collect() or self._serving():
            time.sleep(INTERVAL)
        return self._ended.get(self._last, 0)

    def _serving(self) -> int | None:
        for file in self._files:
            with contextlib.suppress(OSError, ValueError):
                pid = int(file.read_text().split()[0])
                if pid not in self._ended:
                    os.kill(pid, 0)
                    self._last = pid
                    return pid
        return None

    def _forward(self, number: int, _: FrameType | None) -> None:
        pid = self._serving()
        if pid is not None:
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def _collect(self) -> bool:
        """Reap ended children, including orphans that a container assigns to pid 1.

        Returns:
            Whether children are running.
        """
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return True
                self._ended[pid] = abs(os.waitstatus_to_exitcode(status))
        return False


if __name__ == "__main__":
    sys.exit(PidHolder([Path(argument) for argument in sys.argv[1:]]).run())
