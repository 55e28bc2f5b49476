"""The messages of Anthropic's API: turns made of content blocks, as clients send them.

Names and types are those of Anthropic's API reference. `cache_control` marks where a cache may
end; here whatever is alike is found again by itself, so it is read and says nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

CacheControl = dict[str, Any] | None
Effort = Literal["low", "medium", "high", "xhigh", "max"]


class TextBlock(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """Text; `citations` say where an answer of before had it from."""

    text: str
    cache_control: CacheControl = None
    citations: list[Any] | None = None


class SystemText(TextBlock, tag="text", tag_field="type", forbid_unknown_fields=True):
    """Text where nothing else can stand, so that its `type` may be left out."""


class Base64Source(Struct, tag="base64", tag_field="type", forbid_unknown_fields=True):
    """An image in the request itself."""

    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class URLSource(Struct, tag="url", tag_field="type", forbid_unknown_fields=True):
    """An image elsewhere."""

    url: str


class ImageBlock(Struct, tag="image", tag_field="type", forbid_unknown_fields=True):
    """An image, for models that can see."""

    source: Base64Source | URLSource
    cache_control: CacheControl = None


class PlainSource(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """The text of a document."""

    data: str
    media_type: Literal["text/plain"] = "text/plain"


class DocumentBlock(Struct, tag="document", tag_field="type", forbid_unknown_fields=True):
    """A document; plain text is the only kind that a model here can read."""

    source: PlainSource
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl = None
    citations: dict[str, Any] | None = None


class ThinkingBlock(Struct, tag="thinking", tag_field="type", forbid_unknown_fields=True):
    """Reasoning of before. Its signature proves something to Anthropic, and nothing to us."""

    thinking: str
    signature: str = ""
    cache_control: CacheControl = None


class RedactedBlock(Struct, tag="redacted_thinking", tag_field="type", forbid_unknown_fields=True):
    """Reasoning that only Anthropic can read: a conversation that began there may hold some."""

    data: str


class ToolUseBlock(Struct, tag="tool_use", tag_field="type", forbid_unknown_fields=True):
    """A call that the model made before; `caller` says that the model made it itself."""

    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl = None
    caller: dict[str, Any] | None = None


ResultBlock = TextBlock | ImageBlock | DocumentBlock


class ToolResultBlock(Struct, tag="tool_result", tag_field="type", forbid_unknown_fields=True):
    """What a call came to."""

    tool_use_id: str
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl = None


UserBlock = TextBlock | ImageBlock | DocumentBlock | ToolResultBlock
AssistantBlock = TextBlock | ThinkingBlock | RedactedBlock | ToolUseBlock


class TurnConfig(Struct, forbid_unknown_fields=True):
    """What Claude Code says with a system message about the turns after it."""

    effort: Effort | None = None


class UserTurn(Struct, tag="user", tag_field="role", forbid_unknown_fields=True):
    """What the user said, and what tools came to."""

    content: str | Annotated[list[UserBlock], Meta(min_length=1)]


class AssistantTurn(Struct, tag="assistant", tag_field="role", forbid_unknown_fields=True):
    """What the model said before."""

    content: str | list[AssistantBlock]


class SystemTurn(Struct, tag="system", tag_field="role", forbid_unknown_fields=True):
    """Instructions that came up in the course of a conversation."""

    content: str | list[SystemText]
    output_config: TurnConfig | None = None


Turn = UserTurn | AssistantTurn | SystemTurn
