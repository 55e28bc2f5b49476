"""Anthropic's routes."""

from __future__ import annotations

from functools import partial

from flask import Response, g

from vllm_obtain.gateway.anthropic.render import MessageRenderer, Shown
from vllm_obtain.gateway.anthropic.request_types import (
    MessagesRequest,
    ThinkingAdaptive,
    ThinkingDisabled,
    ThinkingEnabled,
    parse_count,
    parse_messages,
)
from vllm_obtain.gateway.anthropic.response_types import REQUEST_ID, TokensCount
from vllm_obtain.gateway.anthropic.translate import translate
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import current_services
from vllm_obtain.gateway.inference import model_lookup
from vllm_obtain.gateway.inference.context import parameter_policy
from vllm_obtain.gateway.inference.handler import handle
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.gateway.openai import tokenize


def messages() -> Response:
    """POST /v1/messages."""
    body = parse_messages(read_body(), parameter_policy().unknown)
    services = current_services()
    model = model_lookup.chat_model(services, body.model)
    chat, ignored = translate(body, services.chat_format(model).takes_effort)
    renderer_type = partial(
        MessageRenderer, request_id=g.request_id, thinking=_thinking_display(body)
    )
    parameter_policy().ignored += ignored
    response = handle(chat, renderer_type)
    response.headers[REQUEST_ID] = g.request_id
    return response


def count_tokens() -> Response:
    """POST /v1/messages/count_tokens."""
    body = parse_count(read_body(), parameter_policy().unknown)
    services = current_services()
    model = model_lookup.chat_model(services, body.model)
    chat, _ = translate(body, services.chat_format(model).takes_effort)
    count = tokenize.count(services, model, chat)
    response = reply(TokensCount(count))
    response.headers[REQUEST_ID] = g.request_id
    return response


def _thinking_display(request: MessagesRequest) -> Shown:
    """Return how reasoning appears in the response."""
    if isinstance(request.thinking, ThinkingDisabled):
        return "hidden"
    if (
        isinstance(request.thinking, ThinkingEnabled | ThinkingAdaptive)
        and request.thinking.display == "omitted"
    ):
        return "omitted"
    return "shown"
