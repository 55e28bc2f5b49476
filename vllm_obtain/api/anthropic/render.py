"""From events to messages of content blocks, whole or as a stream of named events."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from vllm_obtain.api.anthropic.answers import (
    Block,
    Message,
    Stopped,
    Text,
    Thinking,
    ToolUse,
    UsageBody,
    error_body,
)
from vllm_obtain.api.render import Batches, Renderer
from vllm_obtain.errors import ServiceError
from vllm_obtain.protocol.events import Call, Delta, Event, Finish, Thought, Usage
from vllm_obtain.protocol.requests import InferenceRequest
from vllm_obtain.protocol.sse import named

Shown = Literal["shown", "omitted", "hidden"]
Payload = dict[str, Any]

_PING = named("ping", {"type": "ping"})


class MessageRenderer(Renderer):
    """Shapes events as Anthropic does.

    Args:
        model: the name the client gets to see.
        request: what is answered.
        request_id: goes into errors that break a stream off.
        thinking: whether reasoning is sent, sent as blocks without a text, or not at all.
    """

    def __init__(
        self,
        model: str,
        request: InferenceRequest,
        request_id: str = "",
        thinking: Shown = "shown",
    ) -> None:
        super().__init__(model, request)
        self.id = f"msg_{secrets.token_hex(12)}"
        self._request_id = request_id
        self._thinking: Shown = thinking

    def plain(self, batches: Batches) -> Message:
        """Join all events into one message: what a client makes of the stream."""
        blocks = _Blocks(self._thinking)
        content: list[Block] = []
        inputs: dict[int, str] = {}
        for payload in self._payloads(batches, blocks):
            if payload["type"] == "content_block_start":
                content.append(payload["content_block"])
            elif payload["type"] == "content_block_delta":
                _add(content[payload["index"]], payload["delta"], payload["index"], inputs)
        for index, text in inputs.items():
            block = content[index]
            assert isinstance(block, ToolUse)  # noqa: S101 - only those have inputs
            block.input = _input(text)
        stopped = blocks.stopped
        usage = UsageBody.of(blocks.usage)
        return Message(
            self.id, self.model, content, usage, stopped.stop_reason, stopped.stop_sequence
        )

    def stream(self, batches: Batches) -> Iterator[bytes]:
        """Encode events as they come; what came together goes out together."""
        blocks = _Blocks(self._thinking)
        begun = False
        for events in batches:
            told = [] if begun else self._head()
            told += (_encoded(payload) for part in events for payload in blocks.take(part))
            if told:
                yield b"".join(told)
            elif not events:
                yield _PING
            begun = True
        yield b"".join(map(_encoded, [*blocks.close(), *_end(blocks)]))

    def failed(self, error: ServiceError) -> bytes:
        """Encode an error as the last event."""
        return named("error", error_body(error, self._request_id))

    def _head(self) -> list[bytes]:
        """Begin a message; how long its prompt is, its end tells."""
        message = Message(self.id, self.model, [], UsageBody(0, 0, 0, 0))
        return [_encoded({"type": "message_start", "message": message}), _PING]

    @staticmethod
    def _payloads(batches: Batches, blocks: _Blocks) -> Iterator[Payload]:
        for events in batches:
            for part in events:
                yield from blocks.take(part)
        yield from blocks.close()


class _Blocks:
    """Turns events into blocks, one after the other."""

    def __init__(self, thinking: Shown) -> None:
        self.finish = Finish("stop")
        self.usage = Usage(0, 0)
        self._called = False
        self._thinking = thinking
        self._index = -1
        self._open: str | int | None = None  # "text", "thinking", or the number of a call
        self._space = ""  # white space that a block of text would begin with
        self._thought = hashlib.blake2b(digest_size=32)

    @property
    def stopped(self) -> Stopped:
        """How it ended."""
        return Stopped.of(self.finish, self._called)

    def take(self, part: Event) -> Iterable[Payload]:
        """Tell an event."""
        if isinstance(part, Delta):
            return self._text(part.text)
        if isinstance(part, Thought):
            return self._thinks(part.text)
        if isinstance(part, Call):
            return self._calls(part)
        if isinstance(part, Finish):
            self.finish = part
        elif isinstance(part, Usage):
            self.usage = part
        return ()

    def close(self) -> list[Payload]:
        """End the block that is open, if one is."""
        told: list[Payload] = []
        if self._open is None:
            return told
        if self._open == "thinking":
            # Clients refuse to send back what has no signature.
            told.append(self._delta("signature_delta", signature=self._thought.hexdigest()))
            self._thought = hashlib.blake2b(digest_size=32)
        self._open = None
        return [*told, {"type": "content_block_stop", "index": self._index}]

    def _text(self, text: str) -> list[Payload]:
        # Models write line breaks between thoughts, calls and text; a block of nothing but white
        # space is one that Anthropic's API would refuse to take back.
        if self._open != "text":
            text = self._space + text
            self._space = "" if text.strip() else text
            if self._space or not text:
                return []
        return [*self._switch("text", Text()), self._delta("text_delta", text=text)]

    def _thinks(self, text: str) -> list[Payload]:
        if self._thinking == "hidden" or not text:
            return []
        told = self._switch("thinking", Thinking())
        self._thought.update(text.encode())
        if self._thinking == "shown":
            told.append(self._delta("thinking_delta", thinking=text))
        return told

    def _calls(self, part: Call) -> list[Payload]:
        self._called = True
        told = self._switch(part.number, ToolUse(part.id or "", part.name or ""))
        if part.arguments:
            told.append(self._delta("input_json_delta", partial_json=part.arguments))
        return told

    def _switch(self, what: str | int, block: Block) -> list[Payload]:
        """End the block before and begin the next, unless this one is open."""
        if self._open == what:
            return []
        told = self.close()
        self._open, self._space = what, ""
        self._index += 1
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return [*told, start]

    def _delta(self, kind: str, **more: str) -> Payload:
        delta = {"type": kind, **more}
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _end(blocks: _Blocks) -> list[Payload]:
    usage = UsageBody.of(blocks.usage)
    delta = {"type": "message_delta", "delta": blocks.stopped, "usage": usage}
    return [delta, {"type": "message_stop"}]


def _add(block: Block, delta: Payload, index: int, inputs: dict[int, str]) -> None:
    if isinstance(block, Text):
        block.text += delta["text"]
    elif isinstance(block, ToolUse):
        inputs[index] = inputs.get(index, "") + delta["partial_json"]
    elif "signature" in delta:
        block.signature = delta["signature"]
    else:
        block.thinking += delta["thinking"]


def _input(text: str) -> Any:
    """Read the arguments of a call; those that were cut off are none."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}


def _encoded(payload: Payload) -> bytes:
    return named(payload["type"], payload)
