"""The body of POST /v1/responses, typed and checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from vllm_obtain.api.responses.items import GivenItem, Message
from vllm_obtain.api.responses.refusals import check, explain
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.parse import convert, decode
from vllm_obtain.protocol.requests import Positive, Probability
from vllm_obtain.protocol.tools import Name, Schema

Label = Annotated[str, Meta(max_length=64)]


class FunctionTool(Struct, tag="function", forbid_unknown_fields=True, kw_only=True):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class NamedFunction(Struct, tag="function", forbid_unknown_fields=True):
    """The one function to call."""

    name: Name


class AllowedTools(Struct, tag="allowed_tools", forbid_unknown_fields=True):
    """A choice among some of the functions."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Meta(min_length=1, max_length=128)]


ToolChoice = Literal["none", "auto", "required"] | NamedFunction | AllowedTools


class PlainText(Struct, tag="text", forbid_unknown_fields=True):
    """An answer of any form."""


class JSONObject(Struct, tag="json_object", forbid_unknown_fields=True):
    """An answer that is a JSON object."""


class JSONSchema(Struct, tag="json_schema", forbid_unknown_fields=True):
    """An answer that is JSON of a schema."""

    name: Name
    schema: Schema
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct, forbid_unknown_fields=True):
    """What the answer's text is like."""

    format: PlainText | JSONObject | JSONSchema | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(Struct, forbid_unknown_fields=True):
    """How much the model thinks, and how clients are told."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    """How a stream is told."""

    include_obfuscation: bool | None = None


class Asked(Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/responses. What stands below `user` works at OpenAI only."""

    model: str | None = None
    input: str | list[dict[str, Any]] | None = None
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
    tools: Annotated[list[FunctionTool], Meta(max_length=128)] | None = None
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
    user: str | None = None

    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    max_tool_calls: int | None = None
    prompt_cache_retention: str | None = None

    @property
    def stores(self) -> bool:
        """Whether the response shall be kept; OpenAI's default is that it is."""
        return self.store is not False

    @property
    def includes_logprobs(self) -> bool:
        """Whether the answer comes with log probabilities."""
        return "message.output_text.logprobs" in (self.include or ())

    @property
    def includes_reasoning(self) -> bool:
        """Whether reasoning comes in a form that a client can send back unread."""
        return "reasoning.encrypted_content" in (self.include or ())

    @property
    def summarises(self) -> bool:
        """Whether reasoning is told as its summary."""
        return self.reasoning is not None and self.reasoning.summary is not None


class _Items(Struct):
    input: list[GivenItem]


_asked = msgspec.json.Decoder(Asked)


def parse(body: bytes) -> tuple[Asked, list[GivenItem]]:
    """Read the body of POST /v1/responses.

    Returns:
        Its fields, and the items of `input`; a text is a user's message.

    Raises:
        InvalidRequest: it cannot be right, or asks for what is not done here.
    """
    try:
        asked = decode(body, _asked)
        check(asked)
        return asked, _items(asked)
    except InvalidRequest as error:
        raise explain(body) or error from None


def _items(asked: Asked) -> list[GivenItem]:
    if asked.input is None:
        return []
    if isinstance(asked.input, str):
        return [Message(role="user", content=asked.input)]
    return convert({"input": [_plain(item) for item in asked.input]}, _Items).input


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    """Write an item as OpenAI's libraries mean it: null is the same as left out."""
    plain = {name: value for name, value in item.items() if value is not None}
    if "type" not in plain:
        plain["type"] = "item_reference" if plain.keys() == {"id"} else "message"
    for name in ("content", "output"):
        if isinstance(plain.get(name), list):
            plain[name] = [_without_null(part) for part in plain[name]]
    return plain


def _without_null(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {name: value for name, value in part.items() if value is not None}
