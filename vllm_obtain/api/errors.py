"""The only place that turns an error into an answer.

It has OpenAI's shape unless the route belongs to another API, which sets `g.error_body`.
"""

from __future__ import annotations

import math

import msgspec
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from vllm_obtain.api.absent import no_route
from vllm_obtain.api.services import services
from vllm_obtain.errors import ClientGone, InternalError, ServiceError, TooLarge
from vllm_obtain.log import get_logger
from vllm_obtain.protocol.answers import error_body

log = get_logger("vllm_obtain.api")

CLIENT_CLOSED_REQUEST = 499


def register(app: Flask) -> None:
    """Answer every error of an app."""
    app.register_error_handler(ServiceError, render)
    app.register_error_handler(ClientGone, lambda _: Response(status=CLIENT_CLOSED_REQUEST))
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def render(error: ServiceError) -> Response:
    """Turn an error into an answer."""
    response = Response(
        msgspec.json.encode(g.get("error_body", error_body)(error)),
        status=error.status,
        mimetype="application/json",
    )
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    response.headers.update(error.headers)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.retry is not None:
        response.headers["x-should-retry"] = "true" if error.retry else "false"
    return response


def _http(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        limit = services().settings.max_body_mb
        return render(TooLarge(f"The body is larger than MAX_BODY_MB={limit}. Send less."))
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(set(error.valid_methods or ()) - {"HEAD", "OPTIONS"}))
        made = ServiceError(
            f"This route answers {allowed} only.", status=405, code="method_not_allowed"
        )
        made.type = "invalid_request_error"
        response = render(made)
        response.headers["Allow"] = allowed
        return response
    if error.code == 404:
        return render(no_route(request.path))
    made = ServiceError(error.description or error.name, status=error.code or 500)
    made.type = "invalid_request_error" if made.status < 500 else "server_error"
    return render(made)


def _unexpected(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    return render(
        InternalError(
            f"The service failed on this request. Its log has the details under request id "
            f"{g.get('request_id', 'unknown')}."
        )
    )
