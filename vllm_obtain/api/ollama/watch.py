"""The times of a generation, as far as the front can see them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from vllm_obtain.api.ollama.answers import Metrics
from vllm_obtain.api.tally import Tally
from vllm_obtain.protocol.events import Call, Delta, Event, Thought, Usage

_SECOND = 1_000_000_000


class Watch:
    """Notes when things happen to one request.

    Args:
        began: when the request came, in seconds of `clock`.
        tally: of the generation; None for one that is shared, whose wait for an engine is taken
            to end with its first sign of life.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self, began: float, tally: Tally | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._began = began
        self._tally = tally
        self._clock = clock
        self._served: float | None = None
        self._first: float | None = None
        self._last = began

    def over(self, batches: Iterable[list[Event]]) -> Iterator[list[Event]]:
        """Pass batches of events on, and look at the clock."""
        for events in batches:
            self._last = self._clock()
            self._served = self._served or self._last
            if self._first is None and any(isinstance(e, Delta | Thought | Call) for e in events):
                self._first = self._last
            yield events

    def tell(self, answer: Metrics, usage: Usage) -> None:
        """Write down what it took: the wait for an engine, its prompt, its tokens, and all of it.

        Rates are made of these by dividing, so that none is ever 0.
        """
        first = self._last if self._first is None else self._first
        served = min(self._wait(), first)
        answer.total_duration = _nanoseconds(self._clock() - self._began)
        answer.load_duration = _nanoseconds(served - self._began)
        answer.prompt_eval_count = usage.prompt_tokens
        answer.prompt_eval_duration = _nanoseconds(first - served)
        answer.eval_count = usage.completion_tokens
        answer.eval_duration = _nanoseconds(self._last - first)

    def _wait(self) -> float:
        """When an engine took the request, on our clock."""
        if self._tally is not None and self._tally.served is not None:
            return self._began + self._tally.served
        return self._last if self._served is None else self._served


def _nanoseconds(seconds: float) -> int:
    return max(1, int(seconds * _SECOND))
