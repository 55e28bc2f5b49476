"""Graceful shutdown: requests in flight finish, new ones get a 503.

gunicorn closes its listeners at the first SIGTERM, which would refuse connections. Here the master
first waits, while workers reject new requests with a 503. A second signal, or Ctrl-C, ends the
wait: requests in flight get an error. A third one does not wait for that.
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

from vllm_obtain.config.settings import Settings
from vllm_obtain.control import runtime_dir
from vllm_obtain.control.client import SupervisorClient
from vllm_obtain.control.messages import Status, StatusReply
from vllm_obtain.errors import ServiceError
from vllm_obtain.fs import atomic_write
from vllm_obtain.logs import setup

INTERVAL = 0.1
# Seconds to send the last bytes of responses after all requests have finished.
FLUSH_SECONDS = 2.0


class Drain:
    """Graceful shutdown of one gunicorn master.

    Args:
        server: gunicorn's arbiter.
        settings: give GRACE_PERIOD.
    """

    def __init__(self, server: Any, settings: Settings) -> None:
        self._server = server
        self._settings = settings
        self._marker = drain_marker(settings.port, os.getpid())
        self._deadline: float | None = None
        self._complete = False
        self._quit = server.handle_int

    @property
    def complete(self) -> bool:
        """Whether all requests have finished, or GRACE_PERIOD has passed."""
        return self._complete

    def install(self) -> None:
        """Replace gunicorn's handlers of SIGTERM and SIGINT."""
        self._server.drain = self
        self._server.handle_term = self.handle_term
        self._server.handle_int = self.handle_int

    def handle_term(self) -> None:
        """Start draining; a second call cancels the requests in flight. gunicorn calls this.

        Raises:
            StopIteration: ends gunicorn's main loop.
        """
        self._drain(self._settings.grace_period)

    def handle_int(self) -> None:
        """Cancel the requests in flight, and end; a second call does not wait. gunicorn calls this.

        Raises:
            StopIteration: ends gunicorn's main loop.
        """
        self._drain(0.0)

    def _drain(self, seconds: float) -> None:
        now = time.monotonic()
        if self._complete:
            left = max(FLUSH_SECONDS, (self._deadline or 0.0) - now)
            self._server.cfg.set("graceful_timeout", int(left))
            raise StopIteration
        is_first = self._deadline is None
        if self._deadline is not None and self._deadline <= now:
            self._server.cfg.set("graceful_timeout", int(FLUSH_SECONDS))
            self._quit()
        self._deadline = now + seconds if is_first else now
        with contextlib.suppress(OSError):
            atomic_write(self._marker, str(self._deadline))
        if is_first:
            threading.Thread(target=self._wait, daemon=True).start()

    def remove_marker(self) -> None:
        """Remove the file that makes workers reject requests."""
        with contextlib.suppress(OSError):
            self._marker.unlink()

    def _wait(self) -> None:
        supervisor = SupervisorClient(self._settings, os.getpid())
        while time.monotonic() < (self._deadline or 0.0) and _has_requests(supervisor):
            time.sleep(INTERVAL)
        self._complete = True
        os.kill(os.getpid(), signal.SIGTERM)


def drain_marker(port: int, master: int) -> Path:
    """Path of the file that makes the workers of a master reject new requests."""
    return runtime_dir.folder(port) / f"{runtime_dir.DRAIN}{master}"


def drain_deadline(path: Path) -> float | None:
    """Read from a marker when requests in flight are cancelled, in monotonic seconds.

    Returns:
        None if the service is not draining.
    """
    try:
        return float(runtime_dir.read(path))
    except ValueError:
        return None


def stop_service(port: int, now: bool, report: Callable[[str], None], timeout: float) -> bool:
    """Stop the service on a port and wait until it has ended.

    Args:
        port: PORT.
        now: whether to stop without waiting for requests in flight.
        report: receives messages for the user.
        timeout: maximum seconds to wait.

    Returns:
        Whether the service has ended.
    """
    pid = runtime_dir.service(port)
    if pid is None:
        report(f"No service of the current user is running on port {port}.")
        return False
    os.kill(pid, signal.SIGINT if now else signal.SIGTERM)
    report(f"Stopping the service on port {port} (pid {pid})…")
    end = time.monotonic() + timeout
    while runtime_dir.service(port) == pid:
        if time.monotonic() > end:
            report(
                f"The service is still running after {timeout:.0f} s. Use "
                "`vllm-obtain stop --now` to stop it without waiting for requests."
            )
            return False
        time.sleep(INTERVAL)
    report("Service stopped.")
    return True


def _has_requests(supervisor: SupervisorClient) -> bool:
    """Whether requests are in flight; False if the supervisor cannot be reached."""
    try:
        return supervisor.request(Status(), StatusReply, 5).in_flight > 0
    except ServiceError as error:
        setup.get_logger("vllm_obtain.supervisor").warning("drain skipped", reason=error.message)
        return False
