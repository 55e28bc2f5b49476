"""What a generation has come to so far: tokens, times, and how it ended."""

from __future__ import annotations

import time

from vllm_obtain.messages import Release
from vllm_obtain.protocol.events import Delta, Event, Finish, Usage


class Tally:
    """Counts the events of one generation."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: float | None = None
        self._last = 0.0
        self._counted: Usage | None = None
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.deltas = 0
        self.reason: str | None = None
        self.cut = False

    @property
    def started(self) -> bool:
        """Whether a token came."""
        return self._first is not None

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self._counted is not None and self.reason is not None

    @property
    def first_token(self) -> float | None:
        """Seconds to the first token."""
        return None if self._first is None else self._first - self._began

    def count(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, Delta):
            self._last = time.monotonic()
            self._first = self._first or self._last
            self.deltas += 1
        elif isinstance(event, Finish):
            self.reason = event.reason
        elif isinstance(event, Usage):
            self._counted = event

    def usage(self) -> Usage:
        """Tokens so far: the engine's own count if it gave one, else one per event."""
        return self._counted or Usage(self.prompt_tokens, self.deltas, self.cached_tokens)

    def release(self, outcome: str, lost: bool = False) -> Release:
        """Sum up for the supervisor; arguments as in `messages.Release`."""
        usage = self.usage()
        return Release(
            outcome=outcome,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            first_token=self.first_token,
            generating=self._last - self._first if self._first is not None else 0.0,
            lost=lost,
        )
