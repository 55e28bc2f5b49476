"""The bodies of POST /v1/messages and /v1/messages/count_tokens, typed and checked.

Unknown fields are rejected by name. Fields that only label a request, or concern storage or
billing, are accepted and ignored. Values that would change the completion and are not supported
are rejected.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from vllm_obtain.gateway.anthropic.content_blocks import CacheControl, Effort, SystemText, Turn
from vllm_obtain.protocol.messages import MAX_MESSAGES, MAX_PARTS
from vllm_obtain.protocol.parsing import decode, finite_number
from vllm_obtain.protocol.requests import MAX_STOPS, Probability
from vllm_obtain.protocol.tools import MAX_TOOLS

Nothing = Annotated[list[Any], Meta(max_length=0)]
Budget = Annotated[int, Meta(ge=1024, le=2**31 - 1)]
Display = Literal["summarized", "omitted"] | None
# Anthropic's rule for names of tools; twice as long as OpenAI's. Python's `$` allows a line break
# after it.
ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$(?!\n)")]


class Tool(Struct, forbid_unknown_fields=True, rename={"kind": "type"}):
    """A tool of the client. Server tools of Anthropic are rejected."""

    name: ToolName
    input_schema: dict[str, Any]
    kind: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl = None
    eager_input_streaming: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    input_examples: Nothing | None = None


class AutoChoice(Struct, tag="auto", tag_field="type", forbid_unknown_fields=True):
    """The model decides whether it calls tools."""

    disable_parallel_tool_use: bool | None = None


class AnyChoice(Struct, tag="any", tag_field="type", forbid_unknown_fields=True):
    """The model calls at least one tool."""

    disable_parallel_tool_use: bool | None = None


class ToolChoice(Struct, tag="tool", tag_field="type", forbid_unknown_fields=True):
    """The model calls this tool."""

    name: ToolName
    disable_parallel_tool_use: bool | None = None


class NoChoice(Struct, tag="none", tag_field="type", forbid_unknown_fields=True):
    """The model calls no tool."""


class ThinkingEnabled(Struct, tag="enabled", tag_field="type", forbid_unknown_fields=True):
    """Enables reasoning, with a token budget."""

    budget_tokens: Budget
    display: Display = None


class ThinkingAdaptive(Struct, tag="adaptive", tag_field="type", forbid_unknown_fields=True):
    """Lets the model decide how much it reasons."""

    display: Display = None


class ThinkingDisabled(Struct, tag="disabled", tag_field="type", forbid_unknown_fields=True):
    """Disables reasoning."""


class JSONFormat(Struct, tag="json_schema", tag_field="type", forbid_unknown_fields=True):
    """Structured output: JSON that matches a schema."""

    schema: dict[str, Any]


class OutputConfig(Struct, forbid_unknown_fields=True):
    """Output format and reasoning effort."""

    effort: Effort | None = None
    format: JSONFormat | None = None


class Metadata(Struct, forbid_unknown_fields=True):
    """Metadata of the request."""

    user_id: str | None = None


class ThinkingTurns(Struct, tag="thinking_turns", tag_field="type", forbid_unknown_fields=True):
    """Number of most recent turns."""

    value: Annotated[int, Meta(ge=1)]


class ClearThinking(
    Struct, tag="clear_thinking_20251015", tag_field="type", forbid_unknown_fields=True
):
    """Removes the reasoning of old turns from the prompt."""

    keep: Literal["all"] | ThinkingTurns = msgspec.field(default_factory=lambda: ThinkingTurns(1))


class ContextManagement(Struct, forbid_unknown_fields=True):
    """Edits of the prompt."""

    edits: list[ClearThinking] | None = None


class PromptFields(Struct, kw_only=True):
    """The fields that define the prompt."""

    model: str
    messages: Annotated[list[Turn], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: str | Annotated[list[SystemText], Meta(max_length=MAX_PARTS)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | None = None
    output_config: OutputConfig | None = None
    output_format: JSONFormat | None = None
    context_management: ContextManagement | None = None
    # Accepted without effect.
    cache_control: CacheControl = None
    betas: list[str] | None = None
    speed: Literal["standard"] | None = None
    user_profile_id: str | None = None
    mcp_servers: Nothing | None = None
    # Not supported: the messages of a thread are stored at Anthropic.
    thread: dict[str, Any] | None = None


class CountRequest(PromptFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/messages/count_tokens."""


class MessagesRequest(PromptFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/messages."""

    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    stream: bool | None = None
    stop_sequences: (
        Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=MAX_STOPS)] | None
    ) = None
    temperature: Probability | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    diagnostics: dict[str, Any] | None = None
    container: None = None
    inference_geo: None = None


# The valid tags of each union: the errors of msgspec name only the invalid tag.
_TAGS = (
    (re.compile(r"\.role$"), "user, assistant, system"),
    (re.compile(r"^tools.*\.type$"), "custom; server tools are not supported"),
    (re.compile(r"^tool_choice\.type$"), "auto, any, tool, none"),
    (re.compile(r"^thinking\.type$"), "enabled, adaptive, disabled"),
    (re.compile(r"^output.*\.type$"), "json_schema"),
    (re.compile(r"\.keep\.type$"), "thinking_turns"),
    (re.compile(r"^context_management.*\.type$"), "clear_thinking_20251015"),
    (re.compile(r"^system.*\.type$"), "text"),
    (re.compile(r"\.source\.type$"), "base64 and url for images, text for documents"),
    (re.compile(r"\.content\[\d+\]\.content.*\.type$"), "text, image, document, tool_reference"),
    (
        re.compile(r"^messages.*\.type$"),
        "text; image, document and tool_result of a user; "
        "thinking, redacted_thinking and tool_use of an assistant",
    ),
)

_messages = msgspec.json.Decoder(MessagesRequest, float_hook=finite_number)
_count = msgspec.json.Decoder(CountRequest, float_hook=finite_number)


def parse_messages(body: bytes, ignored: list[str] | None = None) -> MessagesRequest:
    """Read the body of POST /v1/messages; arguments and errors as for `decode`."""
    return decode(body, _messages, ignored, _TAGS)


def parse_count(body: bytes, ignored: list[str] | None = None) -> CountRequest:
    """Read the body of POST /v1/messages/count_tokens; arguments and errors as for `decode`."""
    return decode(body, _count, ignored, _TAGS)
