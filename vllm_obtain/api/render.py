"""From events to OpenAI's answers: whole, or chunk by chunk. Ids, times and shapes are ours.

Other APIs have renderers of their own (see `Renderer`), from the same events.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from vllm_obtain.errors import ServiceError
from vllm_obtain.protocol.answers import (
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
from vllm_obtain.protocol.events import Call, Delta, Event, Finish, Thought, Usage
from vllm_obtain.protocol.requests import InferenceRequest
from vllm_obtain.protocol.said import Said, gather
from vllm_obtain.protocol.sse import DONE, WAITING, event

Batches = Iterable[list[Event]]

# A tuple, since a union is made anew at each look.
_SAID = (Delta, Thought, Call, Finish)


class Renderer(ABC):
    """Shapes the events of one request as some API does.

    Args:
        model: the name the client gets to see.
        request: what is answered.
    """

    content_type = "text/event-stream"

    def __init__(self, model: str, request: InferenceRequest) -> None:
        self.created = int(time.time())
        self.model = model
        self.choices = request.choices

    @abstractmethod
    def plain(self, batches: Batches) -> Struct:
        """Join all events into one answer."""

    @abstractmethod
    def stream(self, batches: Batches) -> Iterator[bytes]:
        """Encode events as they come; what came together goes out together.

        The first list of events sends the head, whatever is in it; an empty one later on keeps
        the connection alive.
        """

    def wait_in_chunks(self) -> None:  # noqa: B027 - formats without comments do so anyway
        """Keep a stream alive by chunks that say nothing, for clients that trip over comments."""

    @abstractmethod
    def failed(self, error: ServiceError) -> bytes:
        """Encode an error that breaks a stream off."""


class OpenAIRenderer(Renderer):
    """What OpenAI's two completion formats have in common."""

    prefix: str

    def __init__(self, model: str, request: InferenceRequest) -> None:
        super().__init__(model, request)
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._with_usage = request.wants_usage
        self._alternatives = request.alternatives
        self._offsets = [0] * self.choices
        self._waiting = WAITING

    def wait_in_chunks(self) -> None:
        """Keep a stream alive by empty pieces of text."""
        self._waiting = event(self.chunk(Delta("")))

    @abstractmethod
    def whole(self, said: list[Said], usage: Usage) -> Struct:
        """Shape a plain answer."""

    @abstractmethod
    def chunk(self, part: Delta | Thought | Call | Finish | None, index: int = 0) -> Struct:
        """Shape one chunk; None is the opening one, of the choice `index`."""

    @abstractmethod
    def logprobs(self, entries: list[dict[str, Any]], index: int) -> dict[str, Any]:
        """Shape the log probabilities of some tokens of a choice."""

    @abstractmethod
    def usage_chunk(self, usage: Usage) -> Struct:
        """Shape the chunk that has no choice but the usage."""

    def opening(self) -> bytes:
        """What goes out before the first text; nothing unless the format has it."""
        return b""

    def plain(self, batches: Batches) -> Struct:
        """Join all events into one answer."""
        return self.whole(*gather(batches, self.choices))

    def stream(self, batches: Batches) -> Iterator[bytes]:
        """Encode events as they come, and the end."""
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

    def all_logprobs(self, said: Said) -> dict[str, Any] | None:
        """Shape the log probabilities of a whole choice, if it has any."""
        entries = [entry for part in said.logprobs for entry in self.entries(part)]
        return self.logprobs(entries, said.index) if entries else None

    def logprobs_of(self, part: Delta) -> dict[str, Any] | None:
        """Shape the log probabilities that come with a piece of text, if any do."""
        if part.logprobs is None:
            return None
        return self.logprobs(self.entries(part.logprobs), part.index)

    def entries(self, logprobs: Any) -> list[dict[str, Any]]:
        """Shape an engine's log probabilities as OpenAI does, and as long as was asked for."""
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
        """The value of `usage` in chunks before the last: null if one follows, else left out."""
        return None if self._with_usage else UNSET

    def _encoded(self, part: Event) -> bytes:
        if isinstance(part, _SAID):
            return event(self.chunk(part))
        if isinstance(part, Usage) and self._with_usage:
            return event(self.usage_chunk(part))
        return b""


class ChatRenderer(OpenAIRenderer):
    """The chat completions format."""

    prefix = "chatcmpl"

    def logprobs(self, entries: list[dict[str, Any]], index: int) -> dict[str, Any]:  # noqa: ARG002
        """Shape log probabilities token by token."""
        return {"content": entries, "refusal": None}

    def opening(self) -> bytes:
        """Send the role first, on its own, for each choice."""
        return b"".join(event(self.chunk(None, index)) for index in range(self.choices))

    def whole(self, said: list[Said], usage: Usage) -> Struct:
        """Shape a plain answer."""
        shaped = [
            ChatChoice(one.index, _message(one), self.all_logprobs(one), one.reason) for one in said
        ]
        return ChatCompletion(self.id, self.created, self.model, shaped, UsageBody.of(usage))

    def chunk(self, part: Delta | Thought | Call | Finish | None, index: int = 0) -> Struct:
        """Shape one chunk."""
        if isinstance(part, Delta):
            choice = ChunkChoice(part.index, ChatDelta(content=part.text), self.logprobs_of(part))
        elif part is None:
            choice = ChunkChoice(index, ChatDelta("assistant", ""))
        elif isinstance(part, Thought):
            thought = ChatDelta(reasoning=part.text, reasoning_content=part.text)
            choice = ChunkChoice(part.index, thought)
        elif isinstance(part, Call):
            choice = ChunkChoice(part.index, ChatDelta(tool_calls=[_call_delta(part)]))
        else:
            choice = ChunkChoice(part.index, ChatDelta(), finish_reason=part.reason)
        return ChatChunk(self.id, self.created, self.model, [choice], self.unset_usage())

    def usage_chunk(self, usage: Usage) -> Struct:
        """Shape the usage chunk."""
        return ChatChunk(self.id, self.created, self.model, [], UsageBody.of(usage))


class TextRenderer(OpenAIRenderer):
    """The text completions format."""

    prefix = "cmpl"

    def logprobs(self, entries: list[dict[str, Any]], index: int) -> dict[str, Any]:
        """Shape log probabilities in four parallel lists, offsets counted over the whole text."""
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

    def whole(self, said: list[Said], usage: Usage) -> Struct:
        """Shape a plain answer."""
        shaped = [
            TextChoice(one.index, one.text, self.all_logprobs(one), one.reason) for one in said
        ]
        return TextCompletion(self.id, self.created, self.model, shaped, UsageBody.of(usage))

    def chunk(self, part: Delta | Thought | Call | Finish | None, index: int = 0) -> Struct:
        """Shape one chunk; a text completion never has thoughts or calls."""
        if part is None:
            choice = TextChoice(index, "")
        elif isinstance(part, Delta):
            choice = TextChoice(part.index, part.text, self.logprobs_of(part))
        else:
            assert isinstance(part, Finish)  # noqa: S101 - readers make the others of chats only
            choice = TextChoice(part.index, "", finish_reason=part.reason)
        return TextCompletion(self.id, self.created, self.model, [choice], self.unset_usage())

    def usage_chunk(self, usage: Usage) -> Struct:
        """Shape the usage chunk."""
        return TextCompletion(self.id, self.created, self.model, [], UsageBody.of(usage))


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry.get(name) for name in ("token", "logprob", "bytes")}


def _message(said: Said) -> ChatMessage:
    """Shape a message; with calls and no text its content is null."""
    message = ChatMessage("assistant", said.text if said.text or not said.calls else None)
    if said.calls:
        message.tool_calls = [
            CallBody(call.id, FunctionBody(call.arguments, call.name)) for call in said.calls
        ]
    if said.thought:
        message.reasoning = message.reasoning_content = said.thought
    return message


def _call_delta(part: Call) -> CallDelta:
    if part.name is None:
        return CallDelta(part.number, FunctionBody(part.arguments))
    function = FunctionBody(part.arguments, part.name)
    return CallDelta(part.number, function, part.id or UNSET, "function")
