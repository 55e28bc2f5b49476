"""The bodies of POST /v1/messages and /v1/messages/count_tokens, typed and checked.

A field that is not here is refused by name. Those that clients send with every request and that
only label it, or say how it is to be kept or paid for, are read and do nothing; a value that
would change the answer and cannot be honoured is refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from vllm_obtain.api.anthropic.blocks import CacheControl, Effort, SystemText, Turn
from vllm_obtain.protocol.parse import decode
from vllm_obtain.protocol.requests import Probability

Nothing = Annotated[list[Any], Meta(max_length=0)]
Budget = Annotated[int, Meta(ge=1024, le=2**31 - 1)]
Display = Literal["summarized", "omitted"] | None
# Anthropic's rule for names of tools; twice as long as OpenAI's. Python's `$` allows a line break
# after it.
ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$(?!\n)")]


class Tool(Struct, forbid_unknown_fields=True, rename={"kind": "type"}):
    """A tool of the client's. Those that Anthropic's own servers run are refused by their type."""

    name: ToolName
    input_schema: dict[str, Any]
    kind: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl = None
    eager_input_streaming: bool | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    input_examples: Nothing | None = None


class AutoChoice(Struct, tag="auto", tag_field="type", forbid_unknown_fields=True):
    """The model calls tools or does not."""

    disable_parallel_tool_use: bool | None = None


class AnyChoice(Struct, tag="any", tag_field="type", forbid_unknown_fields=True):
    """The model calls some tool."""

    disable_parallel_tool_use: bool | None = None


class ToolChoice(Struct, tag="tool", tag_field="type", forbid_unknown_fields=True):
    """The model calls this tool."""

    name: ToolName
    disable_parallel_tool_use: bool | None = None


class NoChoice(Struct, tag="none", tag_field="type", forbid_unknown_fields=True):
    """The model calls no tool."""


class Thinks(Struct, tag="enabled", tag_field="type", forbid_unknown_fields=True):
    """The model may think before it answers."""

    budget_tokens: Budget
    display: Display = None


class Adapts(Struct, tag="adaptive", tag_field="type", forbid_unknown_fields=True):
    """The model thinks when it finds it worth while."""

    display: Display = None


class ThinksNot(Struct, tag="disabled", tag_field="type", forbid_unknown_fields=True):
    """The model answers at once."""


class JSONFormat(Struct, tag="json_schema", tag_field="type", forbid_unknown_fields=True):
    """An answer that is JSON of a schema."""

    schema: dict[str, Any]


class OutputConfig(Struct, forbid_unknown_fields=True):
    """What the answer is to be like."""

    effort: Effort | None = None
    format: JSONFormat | None = None


class Metadata(Struct, forbid_unknown_fields=True):
    """Who asks."""

    user_id: str | None = None


class ThinkingTurns(Struct, tag="thinking_turns", tag_field="type", forbid_unknown_fields=True):
    """How many of the last turns."""

    value: Annotated[int, Meta(ge=1)]


class ClearThinking(
    Struct, tag="clear_thinking_20251015", tag_field="type", forbid_unknown_fields=True
):
    """Leave reasoning of old turns out of the prompt."""

    keep: Literal["all"] | ThinkingTurns = msgspec.field(default_factory=lambda: ThinkingTurns(1))


class ContextManagement(Struct, forbid_unknown_fields=True):
    """What may be left out of the prompt."""

    edits: list[ClearThinking] | None = None


class PromptFields(Struct, kw_only=True):
    """What makes a prompt."""

    model: str
    messages: Annotated[list[Turn], Meta(min_length=1)]
    system: str | list[SystemText] | None = None
    tools: list[Tool] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: Thinks | Adapts | ThinksNot | None = None
    output_config: OutputConfig | None = None
    output_format: JSONFormat | None = None
    context_management: ContextManagement | None = None
    # Labels, and what is so anyway.
    cache_control: CacheControl = None
    betas: list[str] | None = None
    speed: Literal["standard"] | None = None
    user_profile_id: str | None = None
    mcp_servers: Nothing | None = None


class CountRequest(PromptFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/messages/count_tokens."""


class MessagesRequest(PromptFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/messages."""

    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    stream: bool | None = None
    stop_sequences: (
        Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=16)] | None
    ) = None
    temperature: Probability | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    diagnostics: dict[str, Any] | None = None
    container: None = None
    inference_geo: None = None


# What may stand where a tagged type is told apart: msgspec names only what may not.
_TAGS = (
    (re.compile(r"\.role$"), "user, assistant, system"),
    (re.compile(r"^tools.*\.type$"), "custom; tools that Anthropic's servers run are not here"),
    (re.compile(r"^tool_choice\.type$"), "auto, any, tool, none"),
    (re.compile(r"^thinking\.type$"), "enabled, adaptive, disabled"),
    (re.compile(r"^output.*\.type$"), "json_schema"),
    (re.compile(r"\.keep\.type$"), "thinking_turns"),
    (re.compile(r"^context_management.*\.type$"), "clear_thinking_20251015"),
    (re.compile(r"^system.*\.type$"), "text"),
    (re.compile(r"\.source\.type$"), "base64 and url for images, text for documents"),
    (re.compile(r"\.content\[\d+\]\.content.*\.type$"), "text, image, document"),
    (
        re.compile(r"^messages.*\.type$"),
        "text; image, document and tool_result of a user; "
        "thinking, redacted_thinking and tool_use of an assistant",
    ),
)

_messages = msgspec.json.Decoder(MessagesRequest)
_count = msgspec.json.Decoder(CountRequest)


def parse_messages(body: bytes) -> MessagesRequest:
    """Read the body of POST /v1/messages.

    Raises:
        InvalidRequest: not JSON, a wrong type, a value out of range, or an unknown field.
    """
    return decode(body, _messages, tags=_TAGS)


def parse_count(body: bytes) -> CountRequest:
    """Read the body of POST /v1/messages/count_tokens.

    Raises:
        InvalidRequest: not JSON, a wrong type, a value out of range, or an unknown field.
    """
    return decode(body, _count, tags=_TAGS)
