"""The body of POST /v1/responses, typed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from vllm_obtain.protocol.messages import MAX_MESSAGES
from vllm_obtain.protocol.requests import Positive, Probability
from vllm_obtain.protocol.tools import MAX_TOOLS, Name, Schema

Label = Annotated[str, Meta(max_length=64)]


class FunctionTool(Struct, tag="function", forbid_unknown_fields=True, kw_only=True):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None
    # Accepted without effect.
    output_schema: Schema | UnsetType | None = UNSET
    defer_loading: bool | UnsetType | None = UNSET
    allowed_callers: list[str] | UnsetType | None = UNSET


class NamespaceTool(Struct, tag="namespace", forbid_unknown_fields=True, kw_only=True):
    """Functions under a common name; the model sees them as `namespace__function`."""

    name: Name
    description: str | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=MAX_TOOLS)]


Tool = FunctionTool | NamespaceTool


class NamedFunction(Struct, tag="function", forbid_unknown_fields=True):
    """The function to call."""

    name: Name


class AllowedTools(Struct, tag="allowed_tools", forbid_unknown_fields=True):
    """Restricts the choice to some of the functions."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Meta(min_length=1, max_length=MAX_TOOLS)]


ToolChoice = Literal["none", "auto", "required"] | NamedFunction | AllowedTools


class PlainText(Struct, tag="text", forbid_unknown_fields=True):
    """Text without constraints."""


class JSONObject(Struct, tag="json_object", forbid_unknown_fields=True):
    """Structured output: any JSON object."""


class JSONSchema(Struct, tag="json_schema", forbid_unknown_fields=True):
    """Structured output: JSON that matches a schema."""

    name: Name
    schema: Schema
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct, forbid_unknown_fields=True):
    """Format and verbosity of the output text."""

    format: PlainText | JSONObject | JSONSchema | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(Struct, forbid_unknown_fields=True):
    """Reasoning effort, and how reasoning is returned."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    """Options of a stream."""

    include_obfuscation: bool | None = None


def qualified(namespace: str, name: str) -> str:
    """Return the name that a function of a namespace has for the model."""
    return f"{namespace}__{name}"


class ResponsesRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/responses. The fields after `user` are not supported."""

    model: str | None = None
    input: str | Annotated[list[dict[str, Any]], Meta(max_length=MAX_MESSAGES)] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Positive | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: (
        Annotated[
            dict[Label, Annotated[str, Meta(max_length=512)]],
            Meta(max_length=16),
        ]
        | None
    ) = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    client_metadata: dict[str, Any] | None = None
    user: str | None = None

    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    max_tool_calls: int | None = None
    prompt_cache_retention: str | None = None

    @property
    def namespaced(self) -> dict[str, tuple[str, str]]:
        """Namespace and name of each function in a namespace, by its name for the model."""
        return {
            qualified(tool.name, function.name): (tool.name, function.name)
            for tool in self.tools or ()
            if isinstance(tool, NamespaceTool)
            for function in tool.tools
        }

    @property
    def stores(self) -> bool:
        """Whether to store the response; the default is true."""
        return self.store is not False

    @property
    def includes_logprobs(self) -> bool:
        """Whether the response has log probabilities."""
        return "message.output_text.logprobs" in (self.include or ())

    @property
    def includes_reasoning(self) -> bool:
        """Whether reasoning items have `encrypted_content`."""
        return "reasoning.encrypted_content" in (self.include or ())

    @property
    def summarises(self) -> bool:
        """Whether reasoning is returned as its summary."""
        return self.reasoning is not None and self.reasoning.summary is not None
