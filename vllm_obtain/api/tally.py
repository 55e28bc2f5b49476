"""What a generation has come to so far: tokens, times, and how it ended."""

from __future__ import annotations

import time

from vllm_obtain.messages import Release
from vllm_obtain.protocol.events import Delta, Event, Finish, Usage


class Tally:
    """Counts the events of one generation.

    Args:
        choices: how many answers the engine makes.
    """

    def __init__(self, choices: int = 1) -> None:
        self._several = choices > 1
        self._open = set(range(choices))
        self._began = time.monotonic()
        self._first: float | None = None
        self._last = 0.0
        self._counted: Usage | None = None
        self._parts: Usage | None = None
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.deltas = 0
        self.reason: str | None = None
        self.cut = False
        self.served: float | None = None
        # Whose place it has.
        self.engine = ""

    @property
    def started(self) -> bool:
        """Whether a token came."""
        return self._first is not None

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self._counted is not None and not self._open

    @property
    def ended(self) -> bool:
        """Whether every choice has its end; the count of tokens may still come."""
        return not self._open

    @property
    def first_token(self) -> float | None:
        """Seconds to the first token."""
        return None if self._first is None else self._first - self._began

    def serve(self) -> None:
        """Note that an engine takes the request now; `served` has the seconds until then."""
        self.served = time.monotonic() - self._began

    def count(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, Delta):
            self._last = time.monotonic()
            self._first = self._first or self._last
            self.deltas += 1
        elif isinstance(event, Finish):
            self.reason = event.reason
            self._open.discard(event.index)
            if self._several:
                # llama.cpp tells the usage of each choice behind its end: one is still to come.
                self._parts, self._counted = self._counted or self._parts, None
        elif isinstance(event, Usage):
            self._counted = _joined(self._parts, event)

    def usage(self) -> Usage:
        """Tokens so far: the engine's own count if it gave one, else one per event."""
        if self._counted is None or (self._several and self._open):
            return Usage(self.prompt_tokens, self.deltas, self.cached_tokens)
        return self._counted

    def cut_off(self) -> list[Event]:
        """End the choices that are still open, and tell their ends."""
        ends: list[Event] = [Finish("length", index) for index in sorted(self._open)]
        self._counted = self.usage()
        self._open.clear()
        self.reason, self.cut = "length", True
        return ends

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


def _joined(before: Usage | None, more: Usage) -> Usage:
    """Add up what two choices took; their prompt is the same one, read when the first began."""
    if before is None:
        return more
    return Usage(
        more.prompt_tokens,
        before.completion_tokens + more.completion_tokens,
        min(before.cached_tokens, more.cached_tokens),
    )
