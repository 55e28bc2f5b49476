"""The events of a streamed message, for the description; `render.py` makes them."""

from __future__ import annotations

from msgspec import Struct

from vllm_obtain.api.anthropic.answers import Block, Message, Stopped, UsageBody


class MessageStart(Struct, tag="message_start", tag_field="type"):
    """A message begins; its content is empty yet."""

    message: Message


class Ping(Struct, tag="ping", tag_field="type"):
    """The connection lives."""


class BlockStart(Struct, tag="content_block_start", tag_field="type"):
    """A block begins."""

    index: int
    content_block: Block


class TextDelta(Struct, tag="text_delta", tag_field="type"):
    """More text."""

    text: str


class ThinkingDelta(Struct, tag="thinking_delta", tag_field="type"):
    """More reasoning."""

    thinking: str


class SignatureDelta(Struct, tag="signature_delta", tag_field="type"):
    """What a block of reasoning is sent back with."""

    signature: str


class InputDelta(Struct, tag="input_json_delta", tag_field="type"):
    """More of the input of a tool."""

    partial_json: str


class BlockDelta(Struct, tag="content_block_delta", tag_field="type"):
    """A block goes on."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(Struct, tag="content_block_stop", tag_field="type"):
    """A block ends."""

    index: int


class MessageDelta(Struct, tag="message_delta", tag_field="type"):
    """How the message ended, and what it took."""

    delta: Stopped
    usage: UsageBody


class MessageStop(Struct, tag="message_stop", tag_field="type"):
    """The message is whole."""


class ErrorDetail(Struct):
    """What went wrong and what to do."""

    type: str
    message: str


class ErrorBody(Struct, tag="error", tag_field="type"):
    """Every error in Anthropic's shape; in a stream that has begun the last event."""

    error: ErrorDetail
    request_id: str


EVENTS = (
    MessageStart,
    Ping,
    BlockStart,
    BlockDelta,
    BlockStop,
    MessageDelta,
    MessageStop,
    ErrorBody,
)
