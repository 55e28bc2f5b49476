"""From events to OpenAI's answers: whole, or chunk by chunk. Ids, times and shapes are ours."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from vllm_obtain.protocol.answers import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatMessage,
    ChunkChoice,
    TextChoice,
    TextCompletion,
    UsageBody,
)
from vllm_obtain.protocol.events import Delta, Event, Finish, Usage
from vllm_obtain.protocol.sse import DONE, WAITING, event


class Renderer(ABC):
    """Shapes the events of one request.

    Args:
        model: the name the client gets to see.
        with_usage: whether a stream ends with a usage chunk.
        alternatives: how many `top_logprobs` each token has.
    """

    prefix: str

    def __init__(self, model: str, with_usage: bool, alternatives: int = 0) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = model
        self._with_usage = with_usage
        self._alternatives = alternatives

    @abstractmethod
    def whole(self, text: str, logprobs: Any, reason: str, usage: Usage) -> Struct:
        """Shape a plain answer."""

    @abstractmethod
    def chunk(self, part: Delta | Finish | None) -> Struct:
        """Shape one chunk; None is the opening one."""

    @abstractmethod
    def logprobs(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """Shape the log probabilities of some tokens."""

    @abstractmethod
    def usage_chunk(self, usage: Usage) -> Struct:
        """Shape the chunk that has no choice but the usage."""

    def opening(self) -> bytes:
        """What goes out before the first text; nothing unless the format has it."""
        return b""

    def plain(self, batches: Iterable[list[Event]]) -> Struct:
        """Join all events into one answer."""
        texts: list[str] = []
        logprobs: list[Any] = []
        reason, usage = "stop", Usage(0, 0)
        for events in batches:
            for part in events:
                if isinstance(part, Delta):
                    texts.append(part.text)
                    logprobs += self.entries(part.logprobs)
                elif isinstance(part, Finish):
                    reason = part.reason
                elif isinstance(part, Usage):
                    usage = part
        joined = self.logprobs(logprobs) if logprobs else None
        return self.whole("".join(texts), joined, reason, usage)

    def stream(self, batches: Iterable[list[Event]]) -> Iterator[bytes]:
        """Encode events as they come; what came together goes out together.

        The first list of events sends the head, whatever is in it; an empty one later on keeps
        the connection alive.
        """
        opening: bytes | None = self.opening()
        for events in batches:
            if events or opening is not None:
                yield b"".join([opening or b"", *(self._encoded(part) for part in events)])
                opening = None
            else:
                yield WAITING
        yield DONE

    def logprobs_of(self, part: Delta) -> dict[str, Any] | None:
        """Shape the log probabilities that come with a piece of text, if any do."""
        if part.logprobs is None:
            return None
        return self.logprobs(self.entries(part.logprobs))

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
        if isinstance(part, Delta | Finish):
            return event(self.chunk(part))
        if isinstance(part, Usage) and self._with_usage:
            return event(self.usage_chunk(part))
        return b""


class ChatRenderer(Renderer):
    """The chat completions format."""

    prefix = "chatcmpl"

    def logprobs(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """Shape log probabilities token by token."""
        return {"content": entries, "refusal": None}

    def opening(self) -> bytes:
        """Send the role first, on its own."""
        return event(self.chunk(None))

    def whole(self, text: str, logprobs: Any, reason: str, usage: Usage) -> Struct:
        """Shape a plain answer."""
        choice = ChatChoice(0, ChatMessage("assistant", text), logprobs, reason)
        return ChatCompletion(self.id, self.created, self.model, [choice], UsageBody.of(usage))

    def chunk(self, part: Delta | Finish | None) -> Struct:
        """Shape one chunk."""
        if part is None:
            choice = ChunkChoice(0, ChatDelta("assistant", ""))
        elif isinstance(part, Delta):
            choice = ChunkChoice(0, ChatDelta(content=part.text), self.logprobs_of(part))
        else:
            choice = ChunkChoice(0, ChatDelta(), finish_reason=part.reason)
        return ChatChunk(self.id, self.created, self.model, [choice], self.unset_usage())

    def usage_chunk(self, usage: Usage) -> Struct:
        """Shape the usage chunk."""
        return ChatChunk(self.id, self.created, self.model, [], UsageBody.of(usage))


class TextRenderer(Renderer):
    """The text completions format."""

    prefix = "cmpl"
    _offset = 0

    def logprobs(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """Shape log probabilities in four parallel lists, offsets counted over the whole text."""
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in entries],
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": [
                {other["token"]: other["logprob"] for other in entry["top_logprobs"]}
                for entry in entries
            ],
            "text_offset": offsets,
        }

    def whole(self, text: str, logprobs: Any, reason: str, usage: Usage) -> Struct:
        """Shape a plain answer."""
        choice = TextChoice(0, text, logprobs, reason)
        return TextCompletion(self.id, self.created, self.model, [choice], UsageBody.of(usage))

    def chunk(self, part: Delta | Finish | None) -> Struct:
        """Shape one chunk."""
        if isinstance(part, Delta):
            choice = TextChoice(0, part.text, self.logprobs_of(part))
        else:
            choice = TextChoice(0, "", finish_reason=part.reason if part else None)
        return TextCompletion(self.id, self.created, self.model, [choice], self.unset_usage())

    def usage_chunk(self, usage: Usage) -> Struct:
        """Shape the usage chunk."""
        return TextCompletion(self.id, self.created, self.model, [], UsageBody.of(usage))


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry.get(name) for name in ("token", "logprob", "bytes")}
