"""The events of a streamed message, for the OpenAPI description; `render.py` makes them."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from vllm_obtain.gateway.anthropic.response_types import Block, Message, StopReason, UsageBody


class MessageStart(Struct, tag="message_start", tag_field="type"):
    """A message starts, without content."""

    message: Message


class Ping(Struct, tag="ping", tag_field="type"):
    """A keep-alive."""


class BlockStart(Struct, tag="content_block_start", tag_field="type"):
    """A content block starts."""

    index: int
    content_block: Block


class TextDelta(Struct, tag="text_delta", tag_field="type"):
    """A text delta."""

    text: str


class ThinkingDelta(Struct, tag="thinking_delta", tag_field="type"):
    """A reasoning delta."""

    thinking: str


class SignatureDelta(Struct, tag="signature_delta", tag_field="type"):
    """The signature of a thinking block."""

    signature: str


class InputDelta(Struct, tag="input_json_delta", tag_field="type"):
    """A delta of tool-call arguments."""

    partial_json: str


class BlockDelta(Struct, tag="content_block_delta", tag_field="type"):
    """A delta of a content block."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(Struct, tag="content_block_stop", tag_field="type"):
    """A content block ends."""

    index: int


class MessageDelta(Struct, tag="message_delta", tag_field="type"):
    """The stop reason and the usage."""

    delta: StopReason
    usage: UsageBody


class MessageStop(Struct, tag="message_stop", tag_field="type"):
    """The message is complete."""


class ErrorDetail(Struct):
    """The type and message of an error."""

    type: str
    message: str
    details: dict[str, str] | UnsetType = UNSET


class ErrorBody(Struct, tag="error", tag_field="type"):
    """The body of an error; within a stream, the last event."""

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
