"""Ending a service politely: what runs is finished, what comes is sent away until then.

gunicorn closes its listeners at the first SIGTERM, so whoever comes then finds nobody. Here its
master waits first, while workers answer new requests with 503; a second signal does not wait.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_obtain import log
from vllm_obtain.errors import ServiceError
from vllm_obtain.messages import Status, StatusReply
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor import runtime
from vllm_obtain.supervisor.client import Supervisor

INTERVAL = 0.1
# Seconds for what is left when nothing runs any more: the last bytes of an answer.
LAST = 2.0


class Drain:
    """The end of one gunicorn master.

    Args:
        server: gunicorn's arbiter.
        settings: have GRACE_PERIOD.
    """

    def __init__(self, server: Any, settings: Settings) -> None:
        self._server = server
        self._settings = settings
        self._marker = marker(settings.port, os.getpid())
        self._end: float | None = None
        self._over = False

    @property
    def over(self) -> bool:
        """Whether nothing runs any more, or GRACE_PERIOD is over."""
        return self._over

    def install(self) -> None:
        """Answer gunicorn's signals from now on."""
        self._server.handle_term = self.term

    def term(self) -> None:
        """Begin to drain; end at once the second time. Called by gunicorn, for SIGTERM.

        Raises:
            StopIteration: gunicorn's word for the end.
        """
        if self._over:
            left = max(LAST, (self._end or 0.0) - time.monotonic())
            self._server.cfg.set("graceful_timeout", int(left))
            self.forget()
            raise StopIteration
        if self._end is not None:
            self.forget()
            self._server.cfg.set("graceful_timeout", int(LAST))
            self._server.handle_int()
        self._end = time.monotonic() + self._settings.grace_period
        with contextlib.suppress(OSError):
            new = self._marker.with_suffix(".new")
            new.write_text(str(self._end))
            new.replace(self._marker)
        threading.Thread(target=self._wait, daemon=True).start()

    def forget(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):
            self._marker.unlink()

    def _wait(self) -> None:
        supervisor = Supervisor(self._settings, os.getpid())
        while time.monotonic() < (self._end or 0.0) and _running(supervisor):
            time.sleep(INTERVAL)
        self._over = True
        os.kill(os.getpid(), signal.SIGTERM)


def marker(port: int, master: int) -> Path:
    """Name the file that tells a master's workers to send new requests away."""
    return runtime.folder(port) / f"{runtime.DRAIN}{master}"


def end_of_grace(path: Path) -> float | None:
    """Read from a marker when what still runs is to be broken off, in monotonic seconds.

    Returns:
        None when the service does not drain.
    """
    try:
        return float(runtime.read(path))
    except ValueError:
        return None


def stop_service(port: int, now: bool, told: Callable[[str], None], patience: float) -> bool:
    """Ask the service on a port to end, and wait for it.

    Args:
        port: PORT.
        now: whether not to wait for what it does.
        told: given what there is to say.
        patience: seconds to wait for its end.

    Returns:
        Whether it has ended.
    """
    pid = runtime.service(port)
    if pid is None:
        told(f"No service of this user runs on port {port}.")
        return False
    os.kill(pid, signal.SIGINT if now else signal.SIGTERM)
    told(f"Stopping the service on port {port} (pid {pid})…")
    end = time.monotonic() + patience
    while runtime.service(port) == pid:
        if time.monotonic() > end:
            told(f"It still runs after {patience:.0f} s; `vllm-obtain stop --now` does not wait.")
            return False
        time.sleep(INTERVAL)
    told("It has ended.")
    return True


def _running(supervisor: Supervisor) -> bool:
    """Whether requests are on their way; nobody can tell without a supervisor."""
    try:
        return supervisor.ask(Status(), StatusReply, 5).in_flight > 0
    except ServiceError as error:
        log.get_logger("vllm_obtain.supervisor").warning("not drained", reason=error.message)
        return False
