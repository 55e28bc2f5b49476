"""Statistics of a generation: tokens, times and finish reason."""

from __future__ import annotations

import time

from vllm_obtain.control.messages import ReleaseLease
from vllm_obtain.protocol.events import Event, Finish, Usage


class GenerationStats:
    """Counts the events of one generation.

    Args:
        choices: how many completions the engine generates.
        started: monotonic seconds from which the time to first token counts; now when left out.
    """

    def __init__(self, choices: int = 1, started: float | None = None) -> None:
        self._has_choices = choices > 1
        self._open = set(range(choices))
        self._start = time.monotonic() if started is None else started
        self._first_token_at: float | None = None
        self._usage: Usage | None = None
        self._previous_usage: Usage | None = None
        # Plain attributes, since each token uses them: whether a token arrived, whether all choices
        # have ended (usage may still follow), and whether the stream is complete.
        self.started = self.ended = self.finished = False
        self.last_token_at = 0.0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.deltas = 0
        self.finish_reason: str | None = None
        self.truncated = False
        self.served: float | None = None
        self.engine = ""
        # When the engine's process started: a new process of the same engine is another one.
        self.process = 0.0

    @property
    def first_token(self) -> float | None:
        """Seconds to the first token."""
        return None if self._first_token_at is None else self._first_token_at - self._start

    def serve(self, engine: str, process: float) -> None:
        """Record the engine; `served` has the seconds until the first engine was assigned.

        Args:
            engine: its name.
            process: start time of its process, which identifies the process.
        """
        self.engine, self.process = engine, process
        if self.served is None:
            self.served = time.monotonic() - self._start

    def start(self, now: float) -> None:
        """Record the first token, at `now` in monotonic seconds."""
        self.started, self._first_token_at = True, now

    def count(self, event: Event) -> None:
        """Count an event that is no token: the end of a choice, or usage."""
        if isinstance(event, Finish):
            self.finish_reason = event.reason
            self._open.discard(event.index)
            self.ended = not self._open
            if self._has_choices:
                # llama.cpp reports the usage of each choice after its end: another one follows.
                self._previous_usage, self._usage = self._usage or self._previous_usage, None
            self.finished = self.ended and self._usage is not None
        elif isinstance(event, Usage):
            self._usage = _add_usage(self._previous_usage, event)
            self.finished = self.ended

    def usage(self) -> Usage:
        """Return the usage so far: the engine's count if available, else one token per event."""
        if self._usage is None or (self._has_choices and self._open):
            return Usage(self.prompt_tokens, self.deltas, self.cached_tokens)
        return self._usage

    def truncate(self) -> list[Event]:
        """End the open choices; returns their finish events."""
        ends: list[Event] = [Finish("length", index) for index in sorted(self._open)]
        self._usage = self.usage()
        self._open.clear()
        self.ended = self.finished = True
        self.finish_reason, self.truncated = "length", True
        return ends

    def release(self, outcome: str, lost: bool = False) -> ReleaseLease:
        """Make the report to the supervisor; arguments as in `ReleaseLease`."""
        usage = self.usage()
        return ReleaseLease(
            outcome=outcome,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            first_token=self.first_token,
            generating=self.last_token_at - self._first_token_at
            if self._first_token_at is not None
            else 0.0,
            lost=lost,
        )


def _add_usage(before: Usage | None, usage: Usage) -> Usage:
    """Add the usage of a choice; all choices share one prompt."""
    if before is None:
        return usage
    return Usage(
        usage.prompt_tokens,
        before.completion_tokens + usage.completion_tokens,
        min(before.cached_tokens, usage.cached_tokens),
    )
