"""Durations of a generation, measured in the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from vllm_obtain.gateway.core.usage import GenerationStats
from vllm_obtain.gateway.ollama.response_types import Metrics
from vllm_obtain.protocol.events import Event, ReasoningDelta, TextDelta, ToolCallDelta, Usage

_SECOND = 1_000_000_000


class TimingRecorder:
    """Records the times of one request.

    Args:
        start_time: arrival of the request, in seconds of `clock`.
        stats: statistics of the generation; None for a coalesced request, whose wait for an engine
            is assumed to end with the first events.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        start_time: float,
        stats: GenerationStats | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start_time = start_time
        self._stats = stats
        self._clock = clock
        self._served: float | None = None
        self._first: float | None = None
        self._last = start_time

    def record(self, batches: Iterable[list[Event]]) -> Iterator[list[Event]]:
        """Yield the batches unchanged and record their times."""
        for events in batches:
            self._last = self._clock()
            self._served = self._served or self._last
            if self._first is None and any(
                isinstance(e, TextDelta | ReasoningDelta | ToolCallDelta) for e in events
            ):
                self._first = self._last
            yield events

    def set_metrics(self, response: Metrics, usage: Usage) -> None:
        """Set the token counts and durations of a response.

        Clients divide by the durations, so none is 0.
        """
        first = self._last if self._first is None else self._first
        served = min(self._served_time(), first)
        response.total_duration = _nanoseconds(self._clock() - self._start_time)
        response.load_duration = _nanoseconds(served - self._start_time)
        response.prompt_eval_count = usage.prompt_tokens
        response.prompt_eval_duration = _nanoseconds(first - served)
        response.eval_count = usage.completion_tokens
        response.eval_duration = _nanoseconds(self._last - first)

    def _served_time(self) -> float:
        """Return the time at which an engine took the request."""
        if self._stats is not None and self._stats.served is not None:
            return self._start_time + self._stats.served
        return self._last if self._served is None else self._served


def _nanoseconds(seconds: float) -> int:
    return max(1, int(seconds * _SECOND))
