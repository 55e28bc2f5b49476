"""Routes of the Anthropic API."""

from __future__ import annotations

from vllm_obtain.gateway.anthropic import handlers
from vllm_obtain.gateway.anthropic.request_types import CountRequest, MessagesRequest
from vllm_obtain.gateway.anthropic.response_types import Message, TokensCount
from vllm_obtain.gateway.anthropic.stream_types import EVENTS, ErrorBody
from vllm_obtain.gateway.core import error_codes as codes
from vllm_obtain.gateway.core.route import Route

_EXAMPLE = {
    "model": "smollm2-135m",
    "messages": [{"role": "user", "content": "Why is the sky blue?"}],
}

ROUTES = [
    Route(
        "POST",
        "/v1/messages",
        handlers.messages,
        "Create a message.",
        "Anthropic",
        response=Message,
        body=MessagesRequest,
        events=EVENTS,
        errors=codes.GENERATE,
        error_body=ErrorBody,
        example=_EXAMPLE | {"max_tokens": 60},
        details="For Claude Code and the Anthropic SDKs. The base URL has no `/v1`.",
    ),
    Route(
        "POST",
        "/v1/messages/count_tokens",
        handlers.count_tokens,
        "Count the tokens of messages.",
        "Anthropic",
        response=TokensCount,
        body=CountRequest,
        errors=(*codes.ENGINE, *codes.CHAT),
        error_body=ErrorBody,
        example=_EXAMPLE,
        details="Loads the model if necessary. Nothing is generated.",
    ),
]
