"""What happens to every request: an id, limits, headers, one line in the log, one count."""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

from flask import Flask, Response, g, request

from vllm_obtain import log
from vllm_obtain.api.moving import Holding
from vllm_obtain.api.reading import Ending, end_connection, is_left, linger
from vllm_obtain.api.services import Services, services
from vllm_obtain.api.tally import Tally
from vllm_obtain.api.traced import tell
from vllm_obtain.errors import Overloaded
from vllm_obtain.messages import Served
from vllm_obtain.tracing.spans import Tracing

access = log.get_logger("vllm_obtain.access")

_REQUEST_ID = re.compile(r"^[\w.:@/+=-]{1,128}$")
# Seconds after which the next service may be there.
DRAIN_RETRY = 5
# Asked every few seconds by machines: counted, but not worth a line each.
_QUIET = frozenset({"/health", "/ready", "/metrics"})


def register(app: Flask, made: Services) -> None:
    """Wrap the requests of an app."""
    app.wsgi_app = Ending(Holding(app.wsgi_app, made))  # type: ignore[method-assign]
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    g.began = time.monotonic()
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _REQUEST_ID.match(given) else f"req_{secrets.token_hex(12)}"
    log.clear()
    log.bind(request_id=g.request_id)
    made = services()
    head = request.headers
    tracing = Tracing() if request.path in _QUIET else made.tracing
    g.trace = tracing.begin(head.get("traceparent", ""), head.get("tracestate", ""))
    if g.trace.id:
        log.bind(trace_id=g.trace.id)
    connections = made.connections
    client = request.environ.get("gunicorn.socket")
    if client is not None:
        connections.working(client)
    if request.path in _QUIET:
        return
    if connections.crowded:
        told = "All WORKER_CONNECTIONS of this worker are in use. Try again in a moment."
        raise _refusal("too_many_connections", told, 2)
    if made.draining:
        told = "The service is stopping: what runs is finished, nothing new is begun."
        raise _refusal("draining", told, min(DRAIN_RETRY, made.settings.grace_period))


def _refusal(code: str, message: str, seconds: float) -> Overloaded:
    """Refuse a request before anything of it is read; its connection ends with that."""
    g.refused = True
    return Overloaded(message, status=503, code=code, retry_after=seconds)


def _end(response: Response) -> Response:
    response.headers["x-request-id"] = g.request_id
    response.headers["openai-processing-ms"] = str(int((time.monotonic() - g.began) * 1000))
    if "account" in g:
        response.headers.update(g.account.headers)
    left = is_left(request.environ)
    if left or g.get("refused"):
        response.headers["Connection"] = "close"
        end_connection(request.environ)
    if "leniency" in g and g.leniency.ignored:
        response.headers["X-Ignored-Parameters"] = g.leniency.told
    cache = g.cache() if "cache" in g else ""
    if cache:
        response.headers["X-Cache"] = cache
    line = _line(response, cache)
    made, client = services(), request.environ.get("gunicorn.socket")
    began, model, about = g.began, g.get("model"), g._get_current_object()

    def close() -> None:
        if client is not None:
            made.connections.resting(client)
        # A stream may have begun anew since.
        _record(made, line, time.monotonic() - began, about, model)
        if left and client is not None:
            linger(client)

    response.call_on_close(close)
    return response


def _line(response: Response, cache: str) -> dict[str, Any]:
    rule = request.url_rule.rule if request.url_rule is not None else "(none)"
    line = {
        "method": request.method if rule != "(none)" else "(any)",
        "route": rule,
        "status": response.status_code,
        "client": request.remote_addr,
        "request_id": g.request_id,
        "cache": cache,
    }
    if "key" in g:
        line["key"] = g.key.id
    if g.trace.id:
        line["trace_id"] = g.trace.id
    return line


def _led(about: Any) -> Tally | None:
    """What the generation came to that the request led for others too."""
    flight = about.get("led")
    return None if flight is None or flight.recalled else flight.tally


def _record(
    made: Services, line: dict[str, Any], seconds: float, about: Any, model: str | None
) -> None:
    tally = about.get("tally") or _led(about)
    made.reporter.add(
        Served(
            line["route"],
            line["method"],
            line["status"],
            seconds,
            line["cache"],
            line.get("key", ""),
        )
    )
    if model:
        line["model"] = model
    tell(about.trace, line, tally or about.get("asked"), about.get("problem"))
    if line["route"] in _QUIET and line["status"] < 400:
        return
    if tally is not None:
        usage = tally.usage()
        first = tally.first_token
        line |= {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "first_token_ms": None if first is None else round(first * 1000, 1),
            "finish": tally.reason,
        }
    access.info("request", seconds=round(seconds, 4), **line)
