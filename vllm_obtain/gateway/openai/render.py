"""Renders the events of a generation as OpenAI's responses, whole or streamed.

Other APIs have renderers of their own (see `Renderer`).
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from vllm_obtain.errors import ClientDisconnected, ServiceError
from vllm_obtain.protocol.completion import CompletedChoice, gather
from vllm_obtain.protocol.events import (
    Event,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from vllm_obtain.protocol.requests import StreamOptions
from vllm_obtain.protocol.responses import (
    CallBody,
    CallDelta,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatMessage,
    ChunkChoice,
    FunctionBody,
    TextChoice,
    TextCompletion,
    UsageBody,
    error_body,
)
from vllm_obtain.protocol.sampling_params import SamplingParams
from vllm_obtain.protocol.sse import DONE, END, PREFIX, WAITING, encode, event

Batches = Iterable[list[Event]]

# Stands for the text in the frame of a chunk.
_TEXT = "\0text"

# A tuple, because Python builds a union again at each use.
_CHUNK_EVENTS = (TextDelta, ReasoningDelta, ToolCallDelta, Finish)


class Renderer(ABC):
    """Renders the events of one request for one API.

    Args:
        model: the model's name in the response.
        params: the sampling parameters of the request.
    """

    content_type = "text/event-stream"

    def __init__(self, model: str, params: SamplingParams) -> None:
        self.created = int(time.time())
        self.model = model
        self.choices = params.choices

    @abstractmethod
    def plain(self, batches: Batches) -> Struct:
        """Join all events into one response."""

    def encode(self, batches: Batches, on_error: Callable[[ServiceError], None]) -> Iterator[bytes]:
        """Encode a stream to its end, also if that is an error.

        Args:
            batches: the events, as they arrive.
            on_error: called with the error that ends the stream.
        """
        try:
            yield from self.stream(batches)
        except ServiceError as error:
            on_error(error)
            yield self.failed(error)
        except ClientDisconnected:
            return

    @abstractmethod
    def stream(self, batches: Batches) -> Iterator[bytes]:
        """Encode events as they arrive, each list at once.

        The first list of events sends the head, even if it is empty. A later empty one keeps the
        connection alive.
        """

    def wait_in_chunks(self) -> None:  # noqa: B027 - formats without comments do so anyway
        """Keep a stream alive by chunks without text, for clients that do not support comments."""

    @abstractmethod
    def failed(self, error: ServiceError) -> bytes:
        """Encode an error that ends a stream."""


class OpenAIRenderer(Renderer):
    """The common part of OpenAI's two completion formats.

    Args:
        model: as in `Renderer`.
        params: as in `Renderer`.
        stream_options: options of a stream.
    """

    prefix: str

    def __init__(
        self, model: str, params: SamplingParams, stream_options: StreamOptions | None
    ) -> None:
        super().__init__(model, params)
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._with_usage = bool(stream_options and stream_options.include_usage)
        self._alternatives = params.logprobs or 0
        self._offsets = [0] * self.choices
        self._waiting = WAITING
        # Bytes around the text in the chunks of each choice.
        self._frames: dict[int, tuple[bytes, bytes]] = {}

    def wait_in_chunks(self) -> None:
        """Keep a stream alive by chunks with an empty text."""
        self._waiting = event(self.chunk(TextDelta("")))

    @abstractmethod
    def response(self, choices: list[CompletedChoice], usage: Usage) -> Struct:
        """Render a response that is not streamed."""

    @abstractmethod
    def chunk(
        self, part: TextDelta | ReasoningDelta | ToolCallDelta | Finish | None, index: int = 0
    ) -> Struct:
        """Render one chunk; None stands for the first chunk of the choice `index`."""

    @abstractmethod
    def logprobs(self, entries: list[dict[str, Any]], index: int) -> dict[str, Any]:
        """Render the log probabilities of some tokens of a choice."""

    @abstractmethod
    def usage_chunk(self, usage: Usage) -> Struct:
        """Render the chunk that has the usage and no choice."""

    def opening(self) -> bytes:
        """Return the bytes before the first text."""
        return b""

    def plain(self, batches: Batches) -> Struct:
        """Join all events into one response."""
        return self.response(*gather(batches, self.choices))

    def stream(self, batches: Batches) -> Iterator[bytes]:
        """Encode events as they arrive, and the end."""
        opening: bytes | None = self.opening()
        for events in batches:
            if opening is not None:
                yield opening + b"".join(map(self._encoded, events))
                opening = None
            elif len(events) == 1:
                yield self._encoded(events[0])
            elif events:
                yield b"".join(map(self._encoded, events))
            else:
                yield self._waiting
        yield DONE

    def failed(self, error: ServiceError) -> bytes:
        """Encode an error as the last event."""
        return event(error_body(error))

    def all_logprobs(self, choice: CompletedChoice) -> dict[str, Any] | None:
        """Render the log probabilities of a complete choice, if it has any."""
        entries = [entry for part in choice.logprobs for entry in self.entries(part)]
        return self.logprobs(entries, choice.index) if entries else None

    def logprobs_of(self, part: TextDelta) -> dict[str, Any] | None:
        """Render the log probabilities of a piece of text, if it has any."""
        if part.logprobs is None:
            return None
        return self.logprobs(self.entries(part.logprobs), part.index)

    def entries(self, logprobs: Any) -> list[dict[str, Any]]:
        """Render an engine's log probabilities, with as many alternatives as requested."""
        content = logprobs.get("content") if isinstance(logprobs, dict) else None
        return [
            {
                **_token(entry),
                "top_logprobs": [
                    _token(other) for other in entry.get("top_logprobs", [])[: self._alternatives]
                ],
            }
            for entry in content or ()
        ]

    def unset_usage(self) -> UnsetType | None:
        """The value of `usage` in all chunks but the last: null if the last has it, else unset."""
        return None if self._with_usage else UNSET

    def _encoded(self, part: Event) -> bytes:
        if isinstance(part, TextDelta) and part.logprobs is None:
            before, behind = self._frames.get(part.index) or self._frame(part.index)
            return before + encode(part.text) + behind
        if isinstance(part, _CHUNK_EVENTS):
            return PREFIX + encode(self.chunk(part)) + END
        if isinstance(part, Usage) and self._with_usage:
            return event(self.usage_chunk(part))
        return b""

    def _frame(self, index: int) -> tuple[bytes, bytes]:
        """Encode a chunk of a choice without its text, which is all that differs between chunks."""
        chunk = event(self.chunk(TextDelta(_TEXT, index=index)))
        before, _, behind = chunk.rpartition(encode(_TEXT))
        self._frames[index] = before, behind
        return before, behind


class ChatRenderer(OpenAIRenderer):
    """The chat completions format."""

    prefix = "chatcmpl"

    def logprobs(self, entries: list[dict[str, Any]], index: int) -> dict[str, Any]:  # noqa: ARG002
        """Render log probabilities token by token."""
        return {"content": entries, "refusal": None}

    def opening(self) -> bytes:
        """Encode a chunk with only the role, for each choice."""
        return b"".join([event(self.chunk(None, index)) for index in range(self.choices)])

    def response(self, choices: list[CompletedChoice], usage: Usage) -> Struct:
        """Render a response that is not streamed."""
        bodies = [
            ChatChoice(choice.index, _message(choice), self.all_logprobs(choice), choice.reason)
            for choice in choices
        ]
        return ChatCompletion(self.id, self.created, self.model, bodies, UsageBody.of(usage))

    def chunk(
        self, part: TextDelta | ReasoningDelta | ToolCallDelta | Finish | None, index: int = 0
    ) -> Struct:
        if isinstance(part, TextDelta):
            choice = ChunkChoice(part.index, ChatDelta(content=part.text), self.logprobs_of(part))
        elif part is None:
            choice = ChunkChoice(index, ChatDelta("assistant", ""))
        elif isinstance(part, ReasoningDelta):
            reasoning = ChatDelta(reasoning=part.text, reasoning_content=part.text)
            choice = ChunkChoice(part.index, reasoning)
        elif isinstance(part, ToolCallDelta):
            choice = ChunkChoice(part.index, ChatDelta(tool_calls=[_call_delta(part)]))
        else:
            choice = ChunkChoice(part.index, ChatDelta(), finish_reason=part.reason)
        return ChatChunk(self.id, self.created, self.model, [choice], self.unset_usage())

    def usage_chunk(self, usage: Usage) -> Struct:
        return ChatChunk(self.id, self.created, self.model, [], UsageBody.of(usage))


class TextRenderer(OpenAIRenderer):
    """The text completions format.

    Args:
        model: as in `Renderer`.
        params: as in `Renderer`.
        stream_options: options of a stream.
        echo: the text before each completion.
    """

    prefix = "cmpl"

    def __init__(
        self,
        model: str,
        params: SamplingParams,
        stream_options: StreamOptions | None,
        echo: str = "",
    ) -> None:
        super().__init__(model, params, stream_options)
        self._echo = echo

    def opening(self) -> bytes:
        """Encode a chunk with the echo, for each choice."""
        if not self._echo:
            return b""
        parts = [TextDelta(self._echo, index=index) for index in range(self.choices)]
        return b"".join([event(self.chunk(part)) for part in parts])

    def logprobs(self, entries: list[dict[str, Any]], index: int) -> dict[str, Any]:
        """Render log probabilities as four parallel lists; offsets count over the whole text."""
        offsets = []
        for entry in entries:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in entries],
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": [
                {other["token"]: other["logprob"] for other in entry["top_logprobs"]}
                for entry in entries
            ],
            "text_offset": offsets,
        }

    def response(self, choices: list[CompletedChoice], usage: Usage) -> Struct:
        """Render a response that is not streamed."""
        bodies = [
            TextChoice(
                choice.index, self._echo + choice.text, self.all_logprobs(choice), choice.reason
            )
            for choice in choices
        ]
        return TextCompletion(self.id, self.created, self.model, bodies, UsageBody.of(usage))

    def chunk(
        self, part: TextDelta | ReasoningDelta | ToolCallDelta | Finish | None, index: int = 0
    ) -> Struct:
        """Render one chunk; a text completion has neither reasoning nor tool calls."""
        if part is None:
            choice = TextChoice(index, "")
        elif isinstance(part, TextDelta):
            choice = TextChoice(part.index, part.text, self.logprobs_of(part))
        else:
            assert isinstance(part, Finish)  # noqa: S101 - only chats have the others
            choice = TextChoice(part.index, "", finish_reason=part.reason)
        return TextCompletion(self.id, self.created, self.model, [choice], self.unset_usage())

    def usage_chunk(self, usage: Usage) -> Struct:
        return TextCompletion(self.id, self.created, self.model, [], UsageBody.of(usage))


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry.get(name) for name in ("token", "logprob", "bytes")}


def _message(choice: CompletedChoice) -> ChatMessage:
    """Render a message; with tool calls and no text its content is null."""
    message = ChatMessage("assistant", choice.text if choice.text or not choice.calls else None)
    if choice.calls:
        message.tool_calls = [
            CallBody(call.id, FunctionBody(call.arguments, call.name)) for call in choice.calls
        ]
    if choice.reasoning:
        message.reasoning = message.reasoning_content = choice.reasoning
    return message


def _call_delta(part: ToolCallDelta) -> CallDelta:
    if part.name is None:
        return CallDelta(part.number, FunctionBody(part.arguments))
    function = FunctionBody(part.arguments, part.name)
    return CallDelta(part.number, function, part.id or UNSET, "function")
