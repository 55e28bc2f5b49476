"""Renders every error as a response, in the format of the API that was called."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from vllm_obtain.errors import (
    ClientDisconnected,
    InternalError,
    NotImplementedRoute,
    ServiceError,
    TooLarge,
)
from vllm_obtain.gateway.anthropic import response_types as anthropic
from vllm_obtain.gateway.core.services import current_services
from vllm_obtain.gateway.middleware.unsupported_routes import no_route
from vllm_obtain.gateway.ollama import errors as ollama
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.protocol.responses import error_body

log = get_logger("vllm_obtain.api")

CLIENT_CLOSED_REQUEST = 499


def register(app: Flask) -> None:
    app.register_error_handler(ServiceError, render)
    app.register_error_handler(ClientDisconnected, lambda _: Response(status=CLIENT_CLOSED_REQUEST))
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def render(error: ServiceError) -> Response:
    response = Response(
        msgspec.json.encode(_body(error)), status=error.status, mimetype="application/json"
    )
    if request.path.startswith(anthropic.PREFIX):
        response.headers[anthropic.REQUEST_ID] = g.get("request_id", "")
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    response.headers.update(error.headers)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.retry is not None:
        response.headers["x-should-retry"] = "true" if error.retry else "false"
    return response


def _body(error: ServiceError) -> Any:
    """Return the body of an error. Paths without a route have the format of their API too."""
    if "error_body" in g:  # set by handlers that know more about the request
        return g.error_body(error)
    if request.path.startswith(anthropic.PREFIX):
        return anthropic.error_body(error, g.get("request_id", ""))
    if request.path.startswith(ollama.PREFIX):
        return ollama.error_body(error)
    return error_body(error)


def _http(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        limit = current_services().settings.max_body_mb
        return render(
            TooLarge(f"The body is larger than MAX_BODY_MB={limit}. Send a smaller body.")
        )
    if error.code in (404, 405) and isinstance(
        missing := no_route(request.path), NotImplementedRoute
    ):
        return render(missing)
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(set(error.valid_methods or ()) - {"HEAD", "OPTIONS"}))
        not_allowed = ServiceError(
            f"Method not allowed. This route supports {allowed}.",
            status=405,
            code="method_not_allowed",
        )
        not_allowed.type = "invalid_request_error"
        response = render(not_allowed)
        response.headers["Allow"] = allowed
        return response
    if error.code == 404:
        return render(no_route(request.path))
    other = ServiceError(error.description or error.name, status=error.code or 500)
    other.type = "invalid_request_error" if other.status < 500 else "server_error"
    return render(other)


def _unexpected(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    return render(
        InternalError(
            "An internal error occurred. See errors.log for request id "
            f"{g.get('request_id', 'unknown')}."
        )
    )
