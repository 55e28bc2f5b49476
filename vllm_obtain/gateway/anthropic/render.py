"""Renders events as a message of content blocks or as a stream of named events."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from vllm_obtain.errors import ServiceError
from vllm_obtain.gateway.anthropic.response_types import (
    Block,
    Message,
    StopReason,
    Text,
    Thinking,
    ToolUse,
    UsageBody,
    error_body,
)
from vllm_obtain.gateway.openai.render import Batches, Renderer
from vllm_obtain.protocol.events import (
    Event,
    Finish,
    PromptProgress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from vllm_obtain.protocol.sampling_params import SamplingParams
from vllm_obtain.protocol.sse import named

Shown = Literal["shown", "omitted", "hidden"]
Payload = dict[str, Any]

_PING = named("ping", {"type": "ping"})


class MessageRenderer(Renderer):
    """The format of the Messages API.

    Args:
        model: the model's name in the response.
        params: the sampling parameters of the request.
        request_id: the request id, for errors within a stream.
        thinking: whether reasoning is shown, sent as empty blocks, or hidden.
    """

    def __init__(
        self,
        model: str,
        params: SamplingParams,
        request_id: str = "",
        thinking: Shown = "shown",
    ) -> None:
        super().__init__(model, params)
        self.id = f"msg_{secrets.token_hex(12)}"
        self._request_id = request_id
        self._thinking: Shown = thinking

    def plain(self, batches: Batches) -> Message:
        """Join all events into one message."""
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
        """Encode events as they arrive, one chunk per batch."""
        blocks = _Blocks(self._thinking)
        started = False
        for events in batches:
            if not events:
                yield _PING
                continue
            chunks = [] if started else [self._head(events)]
            started = True
            chunks += (_encode(payload) for part in events for payload in blocks.take(part))
            if chunks:
                yield b"".join(chunks)
        yield b"".join(map(_encode, [*blocks.close(), *_end(blocks)]))

    def failed(self, error: ServiceError) -> bytes:
        """Encode an error as the last event."""
        return named("error", error_body(error, self._request_id))

    def _head(self, events: list[Event]) -> bytes:
        """Return the start of a message, with the tokens of its prompt."""
        usage = Usage(0, 0)
        for event in events:
            if isinstance(event, PromptProgress):
                usage = Usage(event.total, 0, event.cached)
            elif isinstance(event, Usage) and not usage.prompt_tokens:
                usage = Usage(event.prompt_tokens, 0, event.cached_tokens)
        message = Message(self.id, self.model, [], UsageBody.of(usage))
        return _encode({"type": "message_start", "message": message})

    @staticmethod
    def _payloads(batches: Batches, blocks: _Blocks) -> Iterator[Payload]:
        for events in batches:
            for part in events:
                yield from blocks.take(part)
        yield from blocks.close()


class _Blocks:
    """Turns events into content blocks."""

    def __init__(self, thinking: Shown) -> None:
        self.finish = Finish("stop")
        self.usage = Usage(0, 0)
        self._has_tool_calls = False
        self._thinking = thinking
        self._index = -1
        self._open: str | int | None = None  # "text", "thinking", or the number of a tool call
        self._space = ""  # leading white space of a text block
        self._reasoning_hash = hashlib.blake2b(digest_size=32)

    @property
    def stopped(self) -> StopReason:
        """The stop reason."""
        return StopReason.of(self.finish, self._has_tool_calls)

    def take(self, part: Event) -> Iterable[Payload]:
        if isinstance(part, TextDelta):
            return self._text(part.text)
        if isinstance(part, ReasoningDelta):
            return self._reasoning(part.text)
        if isinstance(part, ToolCallDelta):
            return self._tool_call(part)
        if isinstance(part, Finish):
            self.finish = part
        elif isinstance(part, Usage):
            self.usage = part
        return ()

    def close(self) -> list[Payload]:
        """End the open block, if any."""
        payloads: list[Payload] = []
        if self._open is None:
            return payloads
        if self._open == "thinking":
            # Clients do not send back thinking blocks without a signature.
            payloads.append(
                self._delta("signature_delta", signature=self._reasoning_hash.hexdigest())
            )
            self._reasoning_hash = hashlib.blake2b(digest_size=32)
        self._open = None
        return [*payloads, {"type": "content_block_stop", "index": self._index}]

    def _text(self, text: str) -> list[Payload]:
        # Models write line breaks between reasoning, tool calls and text. Anthropic's API rejects
        # text blocks of white space only.
        if self._open != "text":
            text = self._space + text
            self._space = "" if text.strip() else text
            if self._space or not text:
                return []
        return [*self._switch("text", Text()), self._delta("text_delta", text=text)]

    def _reasoning(self, text: str) -> list[Payload]:
        if self._thinking == "hidden" or not text:
            return []
        payloads = self._switch("thinking", Thinking())
        self._reasoning_hash.update(text.encode())
        if self._thinking == "shown":
            payloads.append(self._delta("thinking_delta", thinking=text))
        return payloads

    def _tool_call(self, part: ToolCallDelta) -> list[Payload]:
        self._has_tool_calls = True
        payloads = self._switch(part.number, ToolUse(part.id or "", part.name or ""))
        if part.arguments:
            payloads.append(self._delta("input_json_delta", partial_json=part.arguments))
        return payloads

    def _switch(self, kind: str | int, block: Block) -> list[Payload]:
        """End the open block and start another, unless this kind is open."""
        if self._open == kind:
            return []
        payloads = self.close()
        self._open, self._space = kind, ""
        self._index += 1
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return [*payloads, start]

    def _delta(self, kind: str, **fields: str) -> Payload:
        delta = {"type": kind, **fields}
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
    """Decode the arguments of a tool call; truncated arguments become {}."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}


def _encode(payload: Payload) -> bytes:
    return named(payload["type"], payload)
