"""Telling the supervisor which requests this worker answered, in small batches."""

from __future__ import annotations

import threading

from vllm_obtain.errors import ServiceError
from vllm_obtain.messages import Report, Served
from vllm_obtain.supervisor.client import Line, Supervisor

INTERVAL = 0.1
# More than this many wait only while the supervisor is away; the oldest are dropped then.
MAX_WAITING = 10_000


class Reporter:
    """Collects and sends. `start` is called in the process that serves, after any fork.

    Args:
        supervisor: whom to tell.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._waiting: list[Served] = []
        self._lost = 0
        self._line: Line | None = None
        self._wake = threading.Event()

    def start(self) -> None:
        """Send what was added, every INTERVAL seconds."""
        threading.Thread(target=self._run, daemon=True, name="reporter").start()

    def add(self, served: Served) -> None:
        """Note one answered request."""
        self._waiting.append(served)
        self._wake.set()

    def lost(self, spans: int) -> None:
        """Note spans that did not reach their collector."""
        self._lost += spans
        self._wake.set()

    def flush(self) -> None:
        """Send what waits now. What cannot be sent waits for the next time."""
        batch, self._waiting = self._waiting, []
        lost, self._lost = self._lost, 0
        if not batch and not lost:
            return
        try:
            if self._line is None:
                self._line = self._supervisor.line()
            self._line.send(Report(batch, lost))
        except (OSError, ServiceError):
            self._line = None
            self._lost += lost
            self._waiting = (batch + self._waiting)[-MAX_WAITING:]

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._wake.wait()
            self._wake.clear()
            pause.wait(INTERVAL)
            self.flush()
