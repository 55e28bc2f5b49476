"""Anthropic's rows in the table of routes."""

from __future__ import annotations

from vllm_obtain.api import error_codes as codes
from vllm_obtain.api.anthropic import routes
from vllm_obtain.api.anthropic.answers import Message, TokensCount
from vllm_obtain.api.anthropic.events import EVENTS, ErrorBody
from vllm_obtain.api.anthropic.requests import CountRequest, MessagesRequest
from vllm_obtain.api.route import Route

_ASKED = {
    "model": "smollm2-135m",
    "messages": [{"role": "user", "content": "Why is the sky blue?"}],
}

ROUTES = [
    Route(
        "POST",
        "/v1/messages",
        routes.messages,
        "Answer a conversation.",
        "Anthropic",
        answer=Message,
        body=MessagesRequest,
        events=EVENTS,
        errors=codes.GENERATE,
        error_body=ErrorBody,
        example=_ASKED | {"max_tokens": 60},
        details="For Claude Code and Anthropic's SDKs: their base URL is this service's address "
        "without `/v1`.",
    ),
    Route(
        "POST",
        "/v1/messages/count_tokens",
        routes.count_tokens,
        "Count the tokens of a conversation.",
        "Anthropic",
        answer=TokensCount,
        body=CountRequest,
        errors=(*codes.ENGINE, *codes.CHAT),
        error_body=ErrorBody,
        example=_ASKED,
        details="Loads the model if need be; nothing is generated.",
    ),
]
