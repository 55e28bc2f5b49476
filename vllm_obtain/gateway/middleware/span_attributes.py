"""Span attributes of a request, by OpenTelemetry's conventions for generative AI."""

from __future__ import annotations

from typing import Any

from vllm_obtain.gateway.core.usage import GenerationStats
from vllm_obtain.tracing.spans import Trace

_TEXT = ("/v1/completions", "/api/generate")


def operation(route: str) -> str:
    """Return the `gen_ai.operation.name` of a route."""
    if "embed" in route:
        return "embeddings"
    if "rerank" in route:
        return "rerank"
    return "text_completion" if route in _TEXT else "chat"


def end_span(
    trace: Trace, line: dict[str, Any], stats: GenerationStats | None, problem: str | None
) -> None:
    """End the span of a request that is recorded.

    Args:
        trace: the trace of the request.
        line: fields of the request's access log line.
        stats: statistics of the generation; None without one.
        problem: the error that ended the stream; None if it completed.
    """
    status, route, model = line["status"], line["route"], line.get("model")
    attributes: dict[str, Any] = {
        "http.request.method": line["method"],
        "http.route": route,
        "http.response.status_code": status,
        "gen_ai.request.id": line["request_id"],
    }
    name = f"{line['method']} {route}"
    if model:
        name = f"{operation(route)} {model}"
        attributes |= {"gen_ai.operation.name": operation(route), "gen_ai.request.model": model}
    if line.get("cache"):
        attributes["vllm_obtain.cache"] = line["cache"]
    if stats is not None:
        attributes |= _generation_attributes(stats, model or "")
    if problem is None and status >= 500:
        problem = str(status)
    trace.end(name, attributes, problem)


def _generation_attributes(stats: GenerationStats, model: str) -> dict[str, Any]:
    usage = stats.usage()
    attributes = {
        "gen_ai.provider.name": stats.engine,
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.response.finish_reasons": (stats.finish_reason,) if stats.finish_reason else None,
        "gen_ai.latency.time_to_first_token": stats.first_token,
        "gen_ai.latency.time_in_queue": stats.served,
    }
    return {key: value for key, value in attributes.items() if value not in (None, "")}
