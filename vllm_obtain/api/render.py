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

# A choice of a plain answer: its number, its text, its log probabilities, why it ended.
Whole = tuple[int, str, Any, str]


class Renderer(ABC):
    """Shapes the events of one request.

    Args:
        model: the name the client gets to see.
        with_usage: whether a stream ends with a usage chunk.
        alternatives: how many `top_logprobs` each token has.
        choices: how many answers there are.
    """

    prefix: str

    def __init__(
        self, model: str, with_usage: bool, alternatives: int = 0, choices: int = 1
    ) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = model
        self._with_usage = with_usage
        self._alternatives = alternatives
        self._choices = choices
        self._offsets = [0] * choices

    @abstractmethod
    def whole(self, choices: list[Whole], usage: Usage) -> Struct:
        """Shape a plain answer."""

    @abstractmethod
    def chunk(self, part: Delta | Finish | None, index: int = 0) -> Struct:
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

    def plain(self, batches: Iterable[list[Event]]) -> Struct:
        """Join all events into one answer."""
        texts: list[list[str]] = [[] for _ in range(self._choices)]
        logprobs: list[list[Any]] = [[] for _ in texts]
        reasons, usage = ["stop" for _ in texts], Usage(0, 0)
        for events in batches:
            for part in events:
                if isinstance(part, Delta):
                    texts[part.index].append(part.text)
                    logprobs[part.index] += self.entries(part.logprobs)
                elif isinstance(part, Finish):
                    reasons[part.index] = part.reason
                elif isinstance(part, Usage):
                    usage = part
        joined = [self.logprobs(known, i) if known else None for i, known in enumerate(logprobs)]
        whole = zip(range(self._choices), map("".join, texts), joined, reasons, strict=True)
        return self.whole(list(whole), usage)

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
        if isinstance(part, Delta | Finish):
            return event(self.chunk(part))
        if isinstance(part, Usage) and self._with_usage:
            return event(self.usage_chunk(part))
        return b""


class ChatRenderer(Renderer):
    """The chat completions format."""

    prefix = "chatcmpl"

    def logprobs(self, entries: list[dict[str, Any]], index: int) -> dict[str, Any]:  # noqa: ARG002
        """Shape log probabilities token by token."""
        return {"content": entries, "refusal": None}

    def opening(self) -> bytes:
        """Send the role first, on its own, for each choice."""
        return b"".join(event(self.chunk(None, index)) for index in range(self._choices))

    def whole(self, choices: list[Whole], usage: Usage) -> Struct:
        """Shape a plain answer."""
        shaped = [
            ChatChoice(index, ChatMessage("assistant", text), logprobs, reason)
            for index, text, logprobs, reason in choices
        ]
        return ChatCompletion(self.id, self.created, self.model, shaped, UsageBody.of(usage))

    def chunk(self, part: Delta | Finish | None, index: int = 0) -> Struct:
        """Shape one chunk."""
        if part is None:
            choice = ChunkChoice(index, ChatDelta("assistant", ""))
        elif isinstance(part, Delta):
            choice = ChunkChoice(part.index, ChatDelta(content=part.text), self.logprobs_of(part))
        else:
            choice = ChunkChoice(part.index, ChatDelta(), finish_reason=part.reason)
        return ChatChunk(self.id, self.created, self.model, [choice], self.unset_usage())

    def usage_chunk(self, usage: Usage) -> Struct:
        """Shape the usage chunk."""
        return ChatChunk(self.id, self.created, self.model, [], UsageBody.of(usage))


class TextRenderer(Renderer):
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

    def whole(self, choices: list[Whole], usage: Usage) -> Struct:
        """Shape a plain answer."""
        shaped = [TextChoice(*choice) for choice in choices]
        return TextCompletion(self.id, self.created, self.model, shaped, UsageBody.of(usage))

    def chunk(self, part: Delta | Finish | None, index: int = 0) -> Struct:
        """Shape one chunk."""
        if part is None:
            choice = TextChoice(index, "")
        elif isinstance(part, Delta):
            choice = TextChoice(part.index, part.text, self.logprobs_of(part))
        else:
            choice = TextChoice(part.index, "", finish_reason=part.reason)
        return TextCompletion(self.id, self.created, self.model, [choice], self.unset_usage())

    def usage_chunk(self, usage: Usage) -> Struct:
        """Shape the usage chunk."""
        return TextCompletion(self.id, self.created, self.model, [], UsageBody.of(usage))


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry.get(name) for name in ("token", "logprob", "bytes")}
