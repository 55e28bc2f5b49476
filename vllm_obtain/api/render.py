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
from vllm_obtain.protocol.sse import DONE, event


class Renderer(ABC):
    """Shapes the events of one request.

    Args:
        model: the name the client gets to see.
        with_usage: whether a stream ends with a usage chunk.
    """

    prefix: str

    def __init__(self, model: str, with_usage: bool) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = model
        self._with_usage = with_usage

    @abstractmethod
    def whole(self, text: str, logprobs: Any, reason: str, usage: Usage) -> Struct:
        """Shape a plain answer."""

    @abstractmethod
    def chunk(self, part: Delta | Finish | None) -> Struct:
        """Shape one chunk; None is the opening one."""

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
                    logprobs += _entries(part.logprobs)
                elif isinstance(part, Finish):
                    reason = part.reason
                elif isinstance(part, Usage):
                    usage = part
        joined = {"content": logprobs, "refusal": None} if logprobs else None
        return self.whole("".join(texts), joined, reason, usage)

    def stream(self, batches: Iterable[list[Event]]) -> Iterator[bytes]:
        """Encode events as they come; what came together goes out together."""
        opening = self.opening()
        for events in batches:
            out = [opening, *(self._encoded(part) for part in events)]
            opening = b""
            yield b"".join(out)
        yield DONE

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
            choice = ChunkChoice(0, ChatDelta(content=part.text), part.logprobs)
        else:
            choice = ChunkChoice(0, ChatDelta(), finish_reason=part.reason)
        return ChatChunk(self.id, self.created, self.model, [choice], self.unset_usage())

    def usage_chunk(self, usage: Usage) -> Struct:
        """Shape the usage chunk."""
        return ChatChunk(self.id, self.created, self.model, [], UsageBody.of(usage))


class TextRenderer(Renderer):
    """The text completions format."""

    prefix = "cmpl"

    def whole(self, text: str, logprobs: Any, reason: str, usage: Usage) -> Struct:
        """Shape a plain answer."""
        choice = TextChoice(0, text, logprobs, reason)
        return TextCompletion(self.id, self.created, self.model, [choice], UsageBody.of(usage))

    def chunk(self, part: Delta | Finish | None) -> Struct:
        """Shape one chunk."""
        text = part.text if isinstance(part, Delta) else ""
        reason = part.reason if isinstance(part, Finish) else None
        choice = TextChoice(0, text, finish_reason=reason)
        return TextCompletion(self.id, self.created, self.model, [choice], self.unset_usage())

    def usage_chunk(self, usage: Usage) -> Struct:
        """Shape the usage chunk."""
        return TextCompletion(self.id, self.created, self.model, [], UsageBody.of(usage))


def _entries(logprobs: Any) -> list[Any]:
    if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
        return list(logprobs["content"])
    return []
