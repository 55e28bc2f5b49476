"""Parses generated text into reasoning, text and tool calls."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vllm_obtain.chat.json_scanner import JSONScanner
from vllm_obtain.chat.reasoning_tags import ReasoningTags
from vllm_obtain.chat.tool_call_format import ToolCallFormat
from vllm_obtain.protocol.events import (
    Event,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

# Events that belong to one choice. A tuple, because a union is rebuilt at each evaluation.
_OF_CHOICES = (TextDelta, Finish)
# A parser state: consumes from the buffer and returns events.
State = Callable[[], list[Event]]


@dataclass(frozen=True, slots=True)
class OutputParser:
    """What to parse in a completion.

    Args:
        marks: the tags around the reasoning, None if the model does not reason.
        begun: whether the prompt ends with the opening tag.
        calls: the format of tool calls, None if there can be none.
        ends_with_calls: whether tool calls set the finish reason to `tool_calls`.
        on_call: called with the name and the arguments of each complete call; None for none.
    """

    marks: ReasoningTags | None = None
    begun: bool = False
    calls: ToolCallFormat | None = None
    ends_with_calls: bool = True
    on_call: Callable[[str, str], None] | None = None

    def parse(self, batches: Iterator[list[Event]]) -> Iterator[list[Event]]:
        """Parse an engine's events, batch by batch.

        An empty batch is a keep-alive, so one is yielded only where one came in.
        """
        choices: dict[int, _Choice] = {}
        for events in batches:
            parsed: list[Event] = []
            for event in events:
                parsed += self._parse_event(event, choices)
            if parsed or not events:
                yield parsed

    def _parse_event(self, event: Event, choices: dict[int, _Choice]) -> list[Event]:
        if isinstance(event, Usage):
            tokens = sum(choice.reasoning_tokens for choice in choices.values())
            if not tokens:
                return [event]
            counts = (event.prompt_tokens, event.completion_tokens, event.cached_tokens)
            return [Usage(*counts, min(tokens, event.completion_tokens))]
        if not isinstance(event, _OF_CHOICES):
            return [event]
        choice = choices.get(event.index)
        if choice is None:
            choice = choices[event.index] = _Choice(self, event.index)
        if isinstance(event, TextDelta):
            return choice.take(event)
        return [*choice.flush(), choice.end(event)]


class _Choice:
    """The parser state of one choice. Text that may become a tag stays in the buffer."""

    def __init__(self, parser: OutputParser, index: int) -> None:
        self._parser = parser
        self._index = index
        self._buffer = ""
        self._logprobs: list[Any] = []
        self._state: State = self._in_reasoning if parser.begun else self._in_text
        self._has_text = False  # whether the completion has any text yet
        self._has_reasoning = False
        self._calls = 0
        self._scanner: JSONScanner | None = None
        self._name = ""
        self._arguments: list[str] = []
        self.reasoning_tokens = 0

    def take(self, piece: TextDelta) -> list[Event]:
        self._buffer += piece.text
        if piece.logprobs is not None:
            self._logprobs += piece.logprobs.get("content") or []
        before = self._state
        events: list[Event] = []
        while True:
            state, held = self._state, self._buffer
            events += state()
            if state == self._state and held == self._buffer:
                break
        if before == self._in_reasoning:
            self.reasoning_tokens += 1
        return events

    def flush(self) -> list[Event]:
        """Return what is in the buffer: it did not become a tag."""
        held, self._buffer = self._buffer, ""
        if self._state == self._in_reasoning:
            return [ReasoningDelta(held, self._index)] if held else []
        if self._state == self._in_text and (held.strip() or self._has_text):
            return self._delta(held)
        return []

    def end(self, finish: Finish) -> Finish:
        """Return the end of the choice, with the reason `tool_calls` if it has calls."""
        # A stop sequence may have ended it within a call, which is then incomplete.
        complete = self._scanner is not None and self._scanner.over
        called = complete and self._parser.ends_with_calls and finish.reason == "stop"
        return Finish("tool_calls", self._index) if called else finish

    def _in_reasoning(self) -> list[Event]:
        tags = self._parser.marks
        assert tags is not None  # noqa: S101 - there is no reasoning without tags
        if not self._has_reasoning:
            self._buffer = self._buffer.lstrip("\n")
        before, mark, after = self._buffer.partition(tags.close)
        if mark:
            self._buffer, self._state = after, self._in_text
            self._logprobs = []  # those of the reasoning do not belong to the content
            before = before.rstrip()
        else:
            before, self._buffer = _split(before, (tags.close,))
        self._has_reasoning = self._has_reasoning or bool(before)
        return [ReasoningDelta(before, self._index)] if before else []

    def _in_text(self) -> list[Event]:
        parser = self._parser
        if not self._has_text:
            self._buffer = self._buffer.lstrip()
            if parser.marks and self._buffer.startswith(parser.marks.open):
                self._buffer = self._buffer[len(parser.marks.open) :].lstrip("\n")
                self._state = self._in_reasoning
                return []
        marks = self._call_marks()
        for mark in marks:
            before, found, _ = self._buffer.partition(mark)
            if found and (parser.calls is None or parser.calls.is_marked or not before):
                self._buffer, self._state = self._buffer[len(before) :], self._in_call_begin
                return self._delta(before.rstrip()) if before.strip() else []
        openings = () if self._has_text or not parser.marks else (parser.marks.open,)
        out, self._buffer = _split(self._buffer, (*marks, *openings))
        return self._delta(out) if out else []

    def _call_marks(self) -> tuple[str, ...]:
        calls = self._parser.calls
        if calls is None or (self._has_text and not calls.is_marked):
            return ()
        return (calls.mark,)

    def _in_call_begin(self) -> list[Event]:
        return self._expect(self._format.begin, self._in_name)

    def _in_name(self) -> list[Event]:
        name, found, rest = self._buffer.partition(self._format.middle)
        if not found:
            return []
        self._buffer, self._state, self._scanner = rest, self._in_arguments, JSONScanner()
        number, self._calls = self._calls, self._calls + 1
        self._name, self._arguments = name, []
        return [ToolCallDelta(number, "", f"call_{secrets.token_hex(12)}", name, self._index)]

    def _in_arguments(self) -> list[Event]:
        assert self._scanner is not None  # noqa: S101 - the state before made it
        taken = self._scanner.feed(self._buffer)
        arguments, self._buffer = self._buffer[:taken], self._buffer[taken:]
        if self._parser.on_call is not None:
            self._arguments.append(arguments)
        if self._scanner.over:
            self._state = self._in_call_end
            if self._parser.on_call is not None:
                self._parser.on_call(self._name, "".join(self._arguments))
        if not arguments:
            return []
        return [ToolCallDelta(self._calls - 1, arguments, index=self._index)]

    def _in_call_end(self) -> list[Event]:
        between = self._format.between
        return [] if between is None else self._expect(between, self._in_name)

    def _expect(self, text: str, state: State) -> list[Event]:
        if self._buffer.startswith(text):
            self._buffer, self._state = self._buffer[len(text) :], state
        elif not text.startswith(self._buffer) and not self._calls:
            # Not a call, from an engine that did not constrain the output.
            mark = self._format.mark
            self._buffer, self._state = self._buffer[len(mark) :], self._in_text
            return self._delta(mark)
        return []

    @property
    def _format(self) -> ToolCallFormat:
        assert self._parser.calls is not None  # noqa: S101 - a mark was found
        return self._parser.calls

    def _delta(self, text: str) -> list[Event]:
        self._has_text = True
        logprobs, self._logprobs = self._logprobs, []
        return [TextDelta(text, {"content": logprobs} if logprobs else None, self._index)]


def _split(text: str, marks: tuple[str, ...]) -> tuple[str, str]:
    """Split off the end that may become a mark, with white space before it."""
    for at in range(len(text)):
        rest = text[at:].lstrip()
        if not rest or any(mark.startswith(rest) for mark in marks):
            return text[:at], text[at:]
    return text, ""
