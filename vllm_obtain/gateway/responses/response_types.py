"""Response bodies of the Responses API; `stream_types` has the stream events."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from vllm_obtain.gateway.responses.items import KeptItem
from vllm_obtain.protocol.events import Usage


class InputDetails(Struct):
    """Details of the input tokens."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(Struct):
    """Details of the output tokens."""

    reasoning_tokens: int


class ResponseUsage(Struct):
    """Token usage of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> ResponseUsage:
        """Convert the usage of a generation."""
        return cls(
            usage.prompt_tokens,
            InputDetails(usage.cached_tokens),
            usage.completion_tokens,
            OutputDetails(usage.reasoning_tokens),
            usage.prompt_tokens + usage.completion_tokens,
        )


class Incomplete(Struct):
    """Why a response is incomplete."""

    reason: str = "max_output_tokens"


class Failure(Struct):
    """The error of a failed response; `code` is one of OpenAI's codes."""

    code: str
    message: str
    param: str | None
    type: str


class ResponseBody(Struct, kw_only=True):
    """A response; it repeats the parameters in effect, including defaults."""

    id: str
    created_at: int
    model: str
    object: str = "response"
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    background: bool = False
    completed_at: int | None = None
    error: Failure | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    metadata: dict[str, str]
    output: list[KeptItem]
    parallel_tool_calls: bool
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str = "default"
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[Any]
    top_logprobs: int
    top_p: float
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None


class InputTokens(Struct):
    """The response of input_tokens."""

    input_tokens: int
    object: str = "response.input_tokens"


class ItemList(Struct):
    """A page of items."""

    data: list[KeptItem]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class Deleted(Struct):
    """Confirmation of a deletion."""

    id: str
    object: str = "response"
    deleted: bool = True
