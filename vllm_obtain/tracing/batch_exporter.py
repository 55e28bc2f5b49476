"""Export of spans to a collector in small batches, by a background thread.

OpenTelemetry's own batch processor does not report dropped spans, and encoding its large batches
blocks the event loop of a worker. Under gevent the thread is a greenlet, so network waits of the
exporter do not block.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from vllm_obtain.gevent_compat import yield_to_others
from vllm_obtain.logs.setup import get_logger

log = get_logger("vllm_obtain.tracing")

# Seconds for the last batches when the process ends.
CLOSE_TIMEOUT = 2.0


class BatchExporter:
    """A bounded queue of spans, and the thread that sends them.

    Args:
        send: sends spans and returns whether the collector received them. May block.
        on_lost: called with the number of lost spans.
        limit: length of the queue; above it the oldest spans are dropped.
        batch: maximum spans per batch.
        delay: seconds after which a smaller batch is sent.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Any]], bool],
        on_lost: Callable[[int], None],
        limit: int,
        batch: int,
        delay: float,
    ) -> None:
        self._send = send
        self._on_lost = on_lost
        self._queue: deque[Any] = deque()
        self._limit = limit
        self._batch = batch
        self._delay = delay
        self._wake = threading.Event()
        self._sending = threading.Lock()
        self._lost_spans = 0
        threading.Thread(target=self._run, daemon=True, name="traces").start()

    def add(self, span: Any) -> None:
        """Queue a span; never blocks."""
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self._count_lost(1)
        self._queue.append(span)
        if len(self._queue) >= self._batch:
            self._wake.set()

    def close(self) -> None:
        """Send the queued spans for at most LAST seconds. The rest is lost."""
        last = threading.Thread(target=self._flush, daemon=True)
        last.start()
        last.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        while True:
            self._wake.wait(self._delay)
            self._wake.clear()
            self._flush()

    def _flush(self) -> None:
        with self._sending:
            while self._queue:
                count = min(self._batch, len(self._queue))
                batch = [self._queue.popleft() for _ in range(count)]
                if self._deliver(batch):
                    self._recover()
                else:
                    self._count_lost(len(batch))
                yield_to_others()

    def _deliver(self, spans: Sequence[Any]) -> bool:
        try:
            return self._send(spans)
        except Exception:
            return False

    def _count_lost(self, count: int) -> None:
        """Count lost spans, and log the first loss."""
        self._on_lost(count)
        if not self._lost_spans:
            log.warning(
                "trace spans lost",
                reason="The collector does not accept them. Requests are not affected. Check "
                "OTEL_EXPORTER_OTLP_ENDPOINT and the collector.",
            )
            self._failing_since = time.monotonic()
        self._lost_spans += count

    def _recover(self) -> None:
        if self._lost_spans:
            seconds = round(time.monotonic() - self._failing_since)
            log.info("trace export resumed", lost=self._lost_spans, seconds=seconds)
            self._lost_spans = 0
