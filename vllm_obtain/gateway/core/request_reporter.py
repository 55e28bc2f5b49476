"""Reports completed requests of this worker to the supervisor, in small batches."""

from __future__ import annotations

import threading

from vllm_obtain.control.client import ControlConnection, SupervisorClient
from vllm_obtain.control.messages import ReportRequests, RequestRecord
from vllm_obtain.errors import ServiceError

INTERVAL = 0.1
# Only reached while the supervisor is unavailable; the oldest records are dropped then.
MAX_WAITING = 10_000


class RequestReporter:
    """Collects records and sends them. Call `start` in the worker process, after the fork.

    Args:
        supervisor: client of the supervisor, which receives the records.
    """

    def __init__(self, supervisor: SupervisorClient) -> None:
        self._supervisor = supervisor
        self._waiting: list[RequestRecord] = []
        self._lost = 0
        self._connection: ControlConnection | None = None
        self._wake = threading.Event()

    def start(self) -> None:
        """Start the thread that sends new records every INTERVAL seconds."""
        threading.Thread(target=self._run, daemon=True, name="reporter").start()

    def add(self, served: RequestRecord) -> None:
        self._waiting.append(served)
        if not self._wake.is_set():
            self._wake.set()

    def lost(self, spans: int) -> None:
        """Add a number of spans that did not reach their collector."""
        self._lost += spans
        self._wake.set()

    def flush(self) -> None:
        """Send all waiting records; they keep waiting if the supervisor is unavailable."""
        batch, self._waiting = self._waiting, []
        lost, self._lost = self._lost, 0
        if not batch and not lost:
            return
        try:
            if self._connection is None:
                self._connection = self._supervisor.connection()
            self._connection.send(ReportRequests(batch, lost))
        except (OSError, ServiceError):
            self._connection = None
            self._lost += lost
            self._waiting = (batch + self._waiting)[-MAX_WAITING:]

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._wake.wait()
            self._wake.clear()
            pause.wait(INTERVAL)
            self.flush()
