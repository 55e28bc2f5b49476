"""Spans on their way to a collector: in small batches, by a thread that no request waits for.

OpenTelemetry's own batch processor says nothing of what it drops, and makes batches so large that
encoding one stops a worker's loop for a moment. Under gevent the thread is a greenlet, and so is
all that the exporter waits for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from vllm_obtain.cooperative import give_way
from vllm_obtain.log import get_logger

log = get_logger("vllm_obtain.tracing")

# Seconds for what waits when the process ends.
LAST = 2.0


class Outbox:
    """What is to be sent.

    Args:
        send: sends spans, and says whether they have arrived. It may take its time.
        lost: told how many were lost.
        limit: the most that wait; the oldest are lost above that.
        batch: the most that are sent together.
        delay: seconds after which fewer are sent.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Any]], bool],
        lost: Callable[[int], None],
        limit: int,
        batch: int,
        delay: float,
    ) -> None:
        self._send = send
        self._lost = lost
        self._waiting: deque[Any] = deque()
        self._limit = limit
        self._batch = batch
        self._delay = delay
        self._wake = threading.Event()
        self._sending = threading.Lock()
        self._failing = 0
        threading.Thread(target=self._run, daemon=True, name="traces").start()

    def add(self, span: Any) -> None:
        """Take a span; never waits."""
        if len(self._waiting) >= self._limit:
            self._waiting.popleft()
            self._note(1)
        self._waiting.append(span)
        if len(self._waiting) >= self._batch:
            self._wake.set()

    def close(self) -> None:
        """Send what waits, for a moment; what does not arrive then is lost."""
        last = threading.Thread(target=self._flush, daemon=True)
        last.start()
        last.join(LAST)

    def _run(self) -> None:
        while True:
            self._wake.wait(self._delay)
            self._wake.clear()
            self._flush()

    def _flush(self) -> None:
        with self._sending:
            while self._waiting:
                count = min(self._batch, len(self._waiting))
                some = [self._waiting.popleft() for _ in range(count)]
                if self._arrive(some):
                    self._recover()
                else:
                    self._note(len(some))
                give_way()

    def _arrive(self, spans: Sequence[Any]) -> bool:
        try:
            return self._send(spans)
        except Exception:
            return False

    def _note(self, count: int) -> None:
        """Count what is lost, and say so the first time."""
        self._lost(count)
        if not self._failing:
            log.warning(
                "traces are lost: the collector does not take them. Requests are served as ever. "
                "Look at OTEL_EXPORTER_OTLP_ENDPOINT and at the collector"
            )
            self._began = time.monotonic()
        self._failing += count

    def _recover(self) -> None:
        if self._failing:
            seconds = round(time.monotonic() - self._began)
            log.info("traces arrive again", lost=self._failing, seconds=seconds)
            self._failing = 0
