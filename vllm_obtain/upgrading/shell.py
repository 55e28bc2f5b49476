"""What is left of the first version: the process that systemd, Docker or a terminal looks at.

It passes signals on to whoever serves now and ends when nobody does. Only the standard library:
it may run for months, over the versions to come. Run as a file, never imported.
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
PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class Shell:
    """The wait for the end of a service.

    Args:
        files: where it writes who it is.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._ended: dict[int, int] = {}
        self._last = 0

    def run(self) -> int:
        """Wait.

        Returns:
            Its exit status, 0 where that cannot be known.
        """
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        # An old version that finishes what it has is our child; the new one may have ended before.
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

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        pid = self._serving()
        if pid is not None:
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def _collect(self) -> bool:
        """Take the exit statuses of children, also of those that a container leaves to pid 1.

        Returns:
            Whether there are children that run.
        """
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return True
                self._ended[pid] = abs(os.waitstatus_to_exitcode(status))
        return False


if __name__ == "__main__":
    sys.exit(Shell([Path(each) for each in sys.argv[1:]]).run())
