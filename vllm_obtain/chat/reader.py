"""From what a model writes to what it means: reasoning, text, and calls of tools."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vllm_obtain.chat.call_format import CallFormat
from vllm_obtain.chat.json_end import JSONEnd
from vllm_obtain.chat.thinking import Thinking
from vllm_obtain.protocol.events import Call, Delta, Event, Finish, Thought, Usage

# Events that say something of one choice; a tuple, since a union is made anew at each look.
_OF_CHOICES = (Delta, Finish)
# What reads on from where a choice is.
State = Callable[[], list[Event]]


@dataclass(frozen=True, slots=True)
class Reading:
    """What to look for in an answer.

    Args:
        marks: around the reasoning, if the model reasons.
        begun: whether the prompt has opened the reasoning.
        calls: how calls are spelled, if there may be any.
        ends_with_calls: whether a choice that called tools ended for that reason.
    """

    marks: Thinking | None = None
    begun: bool = False
    calls: CallFormat | None = None
    ends_with_calls: bool = True

    def read(self, batches: Iterator[list[Event]]) -> Iterator[list[Event]]:
        """Turn an engine's events into what they mean, batch by batch.

        An empty batch says that the request still waits, so one comes out only where one came in.
        """
        choices: dict[int, _Choice] = {}
        for events in batches:
            read: list[Event] = []
            for event in events:
                read += self._one(event, choices)
            if read or not events:
                yield read

    def _one(self, event: Event, choices: dict[int, _Choice]) -> list[Event]:
        if isinstance(event, Usage):
            thought = sum(choice.thought_tokens for choice in choices.values())
            if not thought:
                return [event]
            counts = (event.prompt_tokens, event.completion_tokens, event.cached_tokens)
            return [Usage(*counts, min(thought, event.completion_tokens))]
        if not isinstance(event, _OF_CHOICES):
            return [event]
        choice = choices.get(event.index)
        if choice is None:
            choice = choices[event.index] = _Choice(self, event.index)
        if isinstance(event, Delta):
            return choice.take(event)
        return [*choice.rest(), choice.end(event)]


class _Choice:
    """Where one choice is. Text that may yet become a mark is held back."""

    def __init__(self, reading: Reading, index: int) -> None:
        self._reading = reading
        self._index = index
        self._held = ""
        self._logprobs: list[Any] = []
        self._state: State = self._thought if reading.begun else self._text
        self._said = False  # whether the answer has any text yet
        self._thought_said = False
        self._calls = 0
        self._value: JSONEnd | None = None
        self.thought_tokens = 0

    def take(self, piece: Delta) -> list[Event]:
        """Read on."""
        self._held += piece.text
        if piece.logprobs is not None:
            self._logprobs += piece.logprobs.get("content") or []
        before = self._state
        events: list[Event] = []
        while True:
            state, held = self._state, self._held
            events += state()
            if state == self._state and held == self._held:
                break
        if before == self._thought:
            self.thought_tokens += 1
        return events

    def rest(self) -> list[Event]:
        """Give out what was held back: it has become no mark."""
        held, self._held = self._held, ""
        if self._state == self._thought:
            return [Thought(held, self._index)] if held else []
        if self._state == self._text and (held.strip() or self._said):
            return self._delta(held)
        return []

    def end(self, finish: Finish) -> Finish:
        """End it, with a reason of its own if it called tools."""
        # A stop text may have ended it within a call, which nobody can make then.
        whole = self._value is not None and self._value.over
        called = whole and self._reading.ends_with_calls and finish.reason == "stop"
        return Finish("tool_calls", self._index) if called else finish

    def _thought(self) -> list[Event]:
        marks = self._reading.marks
        assert marks is not None  # noqa: S101 - there is no reasoning without marks
        if not self._thought_said:
            self._held = self._held.lstrip("\n")
        before, mark, after = self._held.partition(marks.close)
        if mark:
            self._held, self._state = after, self._text
            self._logprobs = []  # those of the reasoning, which is no part of the answer's content
            before = before.rstrip()
        else:
            before, self._held = _split(before, (marks.close,))
        self._thought_said = self._thought_said or bool(before)
        return [Thought(before, self._index)] if before else []

    def _text(self) -> list[Event]:
        reading = self._reading
        if not self._said:
            self._held = self._held.lstrip()
            if reading.marks and self._held.startswith(reading.marks.open):
                self._held = self._held[len(reading.marks.open) :].lstrip("\n")
                self._state = self._thought
                return []
        marks = self._marks()
        for mark in marks:
            before, found, _ = self._held.partition(mark)
            if found and (reading.calls is None or reading.calls.is_marked or not before):
                self._held, self._state = self._held[len(before) :], self._begin
                return self._delta(before.rstrip()) if before.strip() else []
        openings = () if self._said or not reading.marks else (reading.marks.open,)
        out, self._held = _split(self._held, (*marks, *openings))
        return self._delta(out) if out else []

    def _marks(self) -> tuple[str, ...]:
        calls = self._reading.calls
        if calls is None or (self._said and not calls.is_marked):
            return ()
        return (calls.mark,)

    def _begin(self) -> list[Event]:
        return self._expect(self._format.begin, self._name)

    def _name(self) -> list[Event]:
        name, found, rest = self._held.partition(self._format.middle)
        if not found:
            return []
        self._held, self._state, self._value = rest, self._arguments, JSONEnd()
        number, self._calls = self._calls, self._calls + 1
        return [Call(number, "", f"call_{secrets.token_hex(12)}", name, self._index)]

    def _arguments(self) -> list[Event]:
        assert self._value is not None  # noqa: S101 - the state before made it
        taken = self._value.feed(self._held)
        more, self._held = self._held[:taken], self._held[taken:]
        if self._value.over:
            self._state = self._after
        return [Call(self._calls - 1, more, index=self._index)] if more else []

    def _after(self) -> list[Event]:
        between = self._format.between
        return [] if between is None else self._expect(between, self._name)

    def _expect(self, text: str, state: State) -> list[Event]:
        if self._held.startswith(text):
            self._held, self._state = self._held[len(text) :], state
        elif not text.startswith(self._held) and not self._calls:
            # No call after all, from an engine that was not held to the form.
            mark = self._format.mark
            self._held, self._state = self._held[len(mark) :], self._text
            return self._delta(mark)
        return []

    @property
    def _format(self) -> CallFormat:
        assert self._reading.calls is not None  # noqa: S101 - a mark was found
        return self._reading.calls

    def _delta(self, text: str) -> list[Event]:
        self._said = True
        logprobs, self._logprobs = self._logprobs, []
        return [Delta(text, {"content": logprobs} if logprobs else None, self._index)]


def _split(text: str, marks: tuple[str, ...]) -> tuple[str, str]:
    """Part what is certain from an end, and space before it, that may become a mark."""
    for at in range(len(text)):
        rest = text[at:].lstrip()
        if not rest or any(mark.startswith(rest) for mark in marks):
            return text[:at], text[at:]
    return text, ""
