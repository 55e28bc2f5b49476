"""Which requests speak Anthropic's language, and what all answers to them have."""

from __future__ import annotations

from typing import Any

from flask import Response, after_this_request, g, request

from vllm_obtain.api.anthropic.answers import error_body
from vllm_obtain.errors import ServiceError

PREFIX = "/v1/messages"


def speak() -> None:
    """Have a request under PREFIX answered in Anthropic's shapes, whatever becomes of it."""
    if request.path.startswith(PREFIX):
        g.error_body = _error_body
        after_this_request(_name)


def _error_body(error: ServiceError) -> dict[str, Any]:
    return error_body(error, g.request_id)


def _name(response: Response) -> Response:
    """Name the request in the header that Anthropic's clients look for."""
    response.headers["request-id"] = g.request_id
    return response
