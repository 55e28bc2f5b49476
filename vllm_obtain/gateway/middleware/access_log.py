"""Request id, connection limit, response headers, access log and metrics of each request."""

from __future__ import annotations

import re
import secrets
import time
from functools import partial
from typing import Any

from flask import Response, g, request

from vllm_obtain.control.messages import RequestRecord
from vllm_obtain.errors import Overloaded
from vllm_obtain.gateway.core.services import Services
from vllm_obtain.gateway.middleware.body import end_connection, is_left, linger
from vllm_obtain.gateway.middleware.span_attributes import end_span
from vllm_obtain.logs import setup
from vllm_obtain.tracing.spans import Tracing

access = setup.get_logger("vllm_obtain.access")

_REQUEST_ID = re.compile(r"^[\w.:@/+=-]{1,128}$")
# Seconds until a restarted service may accept requests.
DRAIN_RETRY = 5
# Probes send these every few seconds; they are counted, but not logged.
_QUIET = frozenset({"/health", "/ready", "/metrics"})


def begin(services: Services) -> None:
    """Give the request an id and a trace, and reject it if the worker is full or stopping.

    Raises:
        Overloaded: it is rejected.
    """
    # Flask looks up the current `g` and `request` again at each use.
    record, environ, path = g._get_current_object(), request.environ, request.path
    record.start_time = time.monotonic()
    header = environ.get("HTTP_X_REQUEST_ID", "")
    record.request_id = header if _REQUEST_ID.match(header) else f"req_{secrets.token_hex(12)}"
    setup.clear()
    setup.bind(request_id=record.request_id)
    tracing = Tracing() if path in _QUIET else services.tracing
    record.trace = tracing.begin(
        environ.get("HTTP_TRACEPARENT", ""), environ.get("HTTP_TRACESTATE", "")
    )
    if record.trace.id:
        setup.bind(trace_id=record.trace.id)
    connections = services.connections
    client = environ.get("gunicorn.socket")
    if client is not None:
        connections.working(client)
    if path in _QUIET:
        return
    if connections.crowded:
        message = "All WORKER_CONNECTIONS of this worker are in use. Try again later."
        raise _rejection("too_many_connections", message, 2)
    if services.draining:
        message = "The service is stopping and accepts no new requests. Try again later."
        raise _rejection("draining", message, min(DRAIN_RETRY, services.settings.grace_period))


def _rejection(code: str, message: str, seconds: float) -> Overloaded:
    """Make the error of a request that is rejected unread; its connection is closed."""
    g.refused = True
    return Overloaded(message, status=503, code=code, retry_after=seconds)


def end(services: Services, response: Response) -> None:
    """Add the response headers, and log the request when its response has ended."""
    record, environ, headers = g._get_current_object(), request.environ, response.headers
    headers["x-request-id"] = record.request_id
    headers["openai-processing-ms"] = str(int((time.monotonic() - record.start_time) * 1000))
    if "quota" in record and record.quota.headers:
        headers.update(record.quota.headers)
    left = not record.body_read if "body_read" in record else is_left(environ)
    if left or "refused" in record:
        headers["Connection"] = "close"
        end_connection(environ)
    if "policy" in record and record.policy.ignored:
        headers["X-Ignored-Parameters"] = record.policy.header_value
    context = record.get("context")
    if context is not None and context.unenforced:
        headers["X-Unenforced-Schema"] = context.unenforced_header
    cache = context.cache_status if context is not None and context.shared is not None else ""
    if cache:
        headers["X-Cache"] = cache
    line, client = _line(record, response.status_code, cache), environ.get("gunicorn.socket")
    response.call_on_close(partial(_close, services, record, line, client, left))


def _line(record: Any, status: int, cache: str) -> dict[str, Any]:
    matched = request.url_rule
    rule = matched.rule if matched is not None else "(none)"
    line = {
        "method": request.method if rule != "(none)" else "(any)",
        "route": rule,
        "status": status,
        "client": request.remote_addr,
        "request_id": record.request_id,
        "cache": cache,
    }
    if "key" in record:
        line["key"] = record.key.id
    if record.trace.id:
        line["trace_id"] = record.trace.id
    return line


def _close(
    services: Services, record: Any, line: dict[str, Any], client: Any, unread: bool
) -> None:
    """Log and count a request once its response, or its stream, has ended."""
    if client is not None:
        services.connections.resting(client)
    if "body_held" in record:
        services.body_memory.release(*record.body_held)
    _record(services, record, line, time.monotonic() - record.start_time)
    if unread and client is not None:
        linger(client)


def _record(services: Services, record: Any, line: dict[str, Any], seconds: float) -> None:
    context = record.get("context")
    services.reporter.add(
        RequestRecord(
            line["route"],
            line["method"],
            line["status"],
            seconds,
            line["cache"],
            line.get("key", ""),
            context.violations if context is not None else (),
        )
    )
    if model := record.get("model"):
        line["model"] = model
    stats = context.own_stats if context is not None else None
    problem = context.problem if context is not None else None
    if record.trace.is_recording:
        end_span(record.trace, line, stats or record.get("call_stats"), problem)
    if line["route"] in _QUIET and line["status"] < 400:
        return
    if stats is not None:
        usage = stats.usage()
        first = stats.first_token
        line |= {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "first_token_ms": None if first is None else round(first * 1000, 1),
            "finish": stats.finish_reason,
        }
    access.info("request", seconds=round(seconds, 4), **line)
