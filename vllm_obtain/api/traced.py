"""What a span says of a request, in the words of OpenTelemetry's conventions for generative AI."""

from __future__ import annotations

from typing import Any

from vllm_obtain.api.tally import Tally
from vllm_obtain.tracing.spans import Trace

_TEXT = ("/v1/completions", "/api/generate")


def operation(route: str) -> str:
    """Name what a route of a model does."""
    if "embed" in route:
        return "embeddings"
    if "rerank" in route:
        return "rerank"
    return "text_completion" if route in _TEXT else "chat"


def tell(trace: Trace, line: dict[str, Any], tally: Tally | None, problem: str | None) -> None:
    """End the span of a request.

    Args:
        trace: its.
        line: what the log says of it.
        tally: what its generation came to, None where there was none.
        problem: what broke its stream off, None when nothing did.
    """
    if not trace.is_recording:
        return
    status, route, model = line["status"], line["route"], line.get("model")
    told: dict[str, Any] = {
        "http.request.method": line["method"],
        "http.route": route,
        "http.response.status_code": status,
        "gen_ai.request.id": line["request_id"],
    }
    name = f"{line['method']} {route}"
    if model:
        name = f"{operation(route)} {model}"
        told |= {"gen_ai.operation.name": operation(route), "gen_ai.request.model": model}
    if line.get("cache"):
        told["vllm_obtain.cache"] = line["cache"]
    if tally is not None:
        told |= _generated(tally, model or "")
    if problem is None and status >= 500:
        problem = str(status)
    trace.end(name, told, problem)


def _generated(tally: Tally, model: str) -> dict[str, Any]:
    usage = tally.usage()
    found = {
        "gen_ai.provider.name": tally.engine,
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.response.finish_reasons": (tally.reason,) if tally.reason else None,
        "gen_ai.latency.time_to_first_token": tally.first_token,
        "gen_ai.latency.time_in_queue": tally.served,
    }
    return {key: value for key, value in found.items() if value not in (None, "")}
