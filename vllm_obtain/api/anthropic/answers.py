"""What goes out in Anthropic's shapes."""

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


class UsageBody(Struct, omit_defaults=True):
    """Tokens; those of the prompt that were known already are counted apart."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens_details: TokenDetails | None = None

    @classmethod
    def of(cls, usage: Usage) -> UsageBody:
        """Take over what a generation came to."""
        details = TokenDetails(usage.reasoning_tokens) if usage.reasoning_tokens else None
        known = usage.cached_tokens
        return cls(usage.prompt_tokens - known, usage.completion_tokens, known, 0, details)


class Text(Struct, tag="text", tag_field="type"):
    """A block of text."""

    text: str = ""


class Thinking(Struct, tag="thinking", tag_field="type"):
    """A block of reasoning."""

    thinking: str = ""
    signature: str = ""


class ToolUse(Struct, tag="tool_use", tag_field="type"):
    """A block that calls a tool."""

    id: str
    name: str
    input: Any = field(default_factory=dict)


Block = Text | Thinking | ToolUse


class Message(Struct, tag="message", tag_field="type"):
    """An answer."""

    id: str
    model: str
    content: list[Block]
    usage: UsageBody
    stop_reason: str | None = None
    stop_sequence: str | None = None
    role: Literal["assistant"] = "assistant"


class Stopped(Struct):
    """How a message ended."""

    stop_reason: str
    stop_sequence: str | None = None

    @classmethod
    def of(cls, finish: Finish, called: bool) -> Stopped:
        """Translate an end.

        Args:
            finish: an answer whose tool the client named ends as `stop` in OpenAI's terms.
            called: whether the message calls a tool.
        """
        if finish.stop is not None:
            return cls("stop_sequence", finish.stop)
        if finish.reason == "length":
            return cls("max_tokens")
        return cls("tool_use" if called else "end_turn")


class TokensCount(Struct):
    """The answer of count_tokens."""

    input_tokens: int


def error_body(error: ServiceError, request_id: str) -> dict[str, Any]:
    """Shape an error.

    Args:
        error: what went wrong.
        request_id: the one in the headers.
    """
    kind = _TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "api_error"
    return {
        "type": "error",
        "error": {"type": kind, "message": _message(error)},
        "request_id": request_id,
    }


def _message(error: ServiceError) -> str:
    if isinstance(error, ContextLengthExceeded):
        # Anthropic's own words: agents know by them that it is time to compact a conversation.
        numbers = f"{error.prompt_tokens} tokens > {error.context - 1} maximum"
        return f"prompt is too long: {numbers}. {error.message}"
    return error.message
