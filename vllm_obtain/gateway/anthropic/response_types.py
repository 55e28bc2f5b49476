"""Response bodies of the Anthropic API."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from vllm_obtain.errors import ContextLengthExceeded, ServiceError
from vllm_obtain.protocol.events import Finish, Usage

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class TokenDetails(Struct):
    """Parts of the output."""

    thinking_tokens: int


class UsageBody(Struct):
    """Token usage; cached prompt tokens are counted separately. The null fields are Anthropic's."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens_details: TokenDetails | None = None
    cache_creation: None = None
    inference_geo: None = None
    server_tool_use: None = None
    service_tier: None = None

    @classmethod
    def of(cls, usage: Usage) -> UsageBody:
        """Convert the usage of a generation."""
        details = TokenDetails(usage.reasoning_tokens) if usage.reasoning_tokens else None
        cached = usage.cached_tokens
        return cls(usage.prompt_tokens - cached, usage.completion_tokens, cached, 0, details)


class Text(Struct, tag="text", tag_field="type"):
    """A block of text."""

    text: str = ""
    citations: None = None


class Thinking(Struct, tag="thinking", tag_field="type"):
    """A block of reasoning."""

    thinking: str = ""
    signature: str = ""


class ToolUse(Struct, tag="tool_use", tag_field="type"):
    """A tool call."""

    id: str
    name: str
    input: Any = field(default_factory=dict)
    caller: None = None


Block = Text | Thinking | ToolUse


class Message(Struct, tag="message", tag_field="type"):
    """A message of the model."""

    id: str
    model: str
    content: list[Block]
    usage: UsageBody
    stop_reason: str | None = None
    stop_sequence: str | None = None
    role: Literal["assistant"] = "assistant"
    container: None = None
    stop_details: None = None


class StopReason(Struct):
    """Why a message ended."""

    stop_reason: str
    stop_sequence: str | None = None
    container: None = None
    stop_details: None = None

    @classmethod
    def of(cls, finish: Finish, has_tool_calls: bool) -> StopReason:
        """Convert a finish event.

        Args:
            finish: the finish event; its reason is `stop` if the client named the tool to call.
            has_tool_calls: whether the message calls a tool.
        """
        if finish.stop is not None:
            return cls("stop_sequence", finish.stop)
        if finish.reason == "length":
            return cls("max_tokens")
        return cls("tool_use" if has_tool_calls else "end_turn")


class TokensCount(Struct):
    """The response of count_tokens."""

    input_tokens: int


# Paths of the API, whose errors have its format, also those of unknown routes.
PREFIX = "/v1/messages"
# The header in which the SDK looks for the id of a request.
REQUEST_ID = "request-id"


# A field of requests. Clients go on without it if the error has these details.
THREAD = "thread"
_THREAD_DETAILS = {"error_code": "thread_unsupported_request"}


def error_body(error: ServiceError, request_id: str) -> dict[str, Any]:
    """Make the body of an error response.

    Args:
        error: the error.
        request_id: the request id of the response headers.
    """
    kind = _TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "api_error"
    detail: dict[str, Any] = {"type": kind, "message": _message(error)}
    if error.param == THREAD:
        detail["details"] = _THREAD_DETAILS
    return {
        "type": "error",
        "error": detail,
        "request_id": request_id,
    }


def _message(error: ServiceError) -> str:
    if isinstance(error, ContextLengthExceeded):
        # The wording of Anthropic's API; agents compact the conversation when they see it.
        numbers = f"{error.prompt_tokens} tokens > {error.context - 1} maximum"
        return f"prompt is too long: {numbers}. {error.message}"
    return error.message
