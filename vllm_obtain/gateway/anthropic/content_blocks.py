"""The messages of the Anthropic API: turns of content blocks.

Names and types are those of Anthropic's API reference. `cache_control` is accepted and ignored,
because the prefix cache works automatically.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from vllm_obtain.protocol.messages import MAX_PARTS

CacheControl = dict[str, Any] | None
Effort = Literal["low", "medium", "high", "xhigh", "max"]


class TextBlock(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """Text; `citations` are accepted and ignored."""

    text: str
    cache_control: CacheControl = None
    citations: list[Any] | None = None


class SystemText(TextBlock, tag="text", tag_field="type", forbid_unknown_fields=True):
    """Text of a system prompt; `type` may be omitted."""


class Base64Source(Struct, tag="base64", tag_field="type", forbid_unknown_fields=True):
    """A base64-encoded image."""

    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class URLSource(Struct, tag="url", tag_field="type", forbid_unknown_fields=True):
    """The URL of an image."""

    url: str


class ImageBlock(Struct, tag="image", tag_field="type", forbid_unknown_fields=True):
    """An image, for vision models."""

    source: Base64Source | URLSource
    cache_control: CacheControl = None


class PlainSource(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """The text of a document."""

    data: str
    media_type: Literal["text/plain"] = "text/plain"


class DocumentBlock(Struct, tag="document", tag_field="type", forbid_unknown_fields=True):
    """A document; only plain text is supported."""

    source: PlainSource
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl = None
    citations: dict[str, Any] | None = None


class ThinkingBlock(Struct, tag="thinking", tag_field="type", forbid_unknown_fields=True):
    """Reasoning of an earlier turn; the signature is ignored."""

    thinking: str
    signature: str = ""
    cache_control: CacheControl = None


class RedactedBlock(Struct, tag="redacted_thinking", tag_field="type", forbid_unknown_fields=True):
    """Encrypted reasoning of Anthropic's API; ignored."""

    data: str


class ToolUseBlock(Struct, tag="tool_use", tag_field="type", forbid_unknown_fields=True):
    """A tool call of an earlier turn."""

    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl = None
    caller: dict[str, Any] | None = None


class ToolReferenceBlock(
    Struct, tag="tool_reference", tag_field="type", forbid_unknown_fields=True
):
    """A tool that a search for tools found; its name is written into the prompt."""

    tool_name: str
    cache_control: CacheControl = None


ResultBlock = TextBlock | ImageBlock | DocumentBlock | ToolReferenceBlock


class ToolResultBlock(Struct, tag="tool_result", tag_field="type", forbid_unknown_fields=True):
    """The result of a tool call."""

    tool_use_id: str
    content: str | Annotated[list[ResultBlock], Meta(max_length=MAX_PARTS)] | None = None
    is_error: bool | None = None
    cache_control: CacheControl = None


UserBlock = TextBlock | ImageBlock | DocumentBlock | ToolResultBlock
AssistantBlock = TextBlock | ThinkingBlock | RedactedBlock | ToolUseBlock


class TurnConfig(Struct, forbid_unknown_fields=True):
    """Settings of a system turn for the following turns, as Claude Code sends them."""

    effort: Effort | None = None


class UserTurn(Struct, tag="user", tag_field="role", forbid_unknown_fields=True):
    """A user turn: content and tool results."""

    content: str | Annotated[list[UserBlock], Meta(min_length=1, max_length=MAX_PARTS)]


class AssistantTurn(Struct, tag="assistant", tag_field="role", forbid_unknown_fields=True):
    """An earlier assistant turn."""

    content: str | Annotated[list[AssistantBlock], Meta(max_length=MAX_PARTS)]


class SystemTurn(Struct, tag="system", tag_field="role", forbid_unknown_fields=True):
    """Instructions within a conversation."""

    content: str | Annotated[list[SystemText], Meta(max_length=MAX_PARTS)]
    output_config: TurnConfig | None = None


Turn = UserTurn | AssistantTurn | SystemTurn
