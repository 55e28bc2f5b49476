"""The service's own description, OpenAPI 3.1, made from the table of routes and its types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from vllm_obtain import __version__
from vllm_obtain.api.answers import ErrorBody
from vllm_obtain.api.error_codes import CODES
from vllm_obtain.api.route import Route
from vllm_obtain.api.schemas import Schema, components, name_of, reference

_ABOUT = (
    "One service over your own models, on your own machine, for clients of OpenAI, Anthropic and "
    "Ollama.\n\n"
    "A parameter works or is refused by name (400, `unsupported_parameter`); none is dropped. "
    "Every error has a message that says what to do."
)
_HEADERS: dict[str, Schema] = {
    "x-request-id": {
        "description": "The id of the request, also in the logs. A client may send one.",
        "required": True,
        "schema": {"type": "string"},
    },
    "openai-processing-ms": {
        "description": "Milliseconds until the answer, or the first part of it.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "Retry-After": {
        "description": "Seconds after which a retry has a chance, at most 120.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    **{
        f"x-ratelimit-{what}-{of}": {
            "description": f"{text} for this key; only where it has such a limit.",
            "schema": {"type": "string"},
        }
        for of in ("requests", "tokens")
        for what, text in (
            ("limit", f"How many {of} a minute has"),
            ("remaining", f"How many {of} are left"),
            ("reset", f"How long until all {of} are there again, such as 1.5s"),
        )
    },
    "WWW-Authenticate": {
        "description": "How to show a key.",
        "schema": {"type": "string", "enum": ["Bearer"]},
    },
    "x-should-retry": {
        "description": "Whether to try again; the official SDKs obey it.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "X-Cache": {
        "description": "Whether the answer to a deterministic request was kept from before.",
        "schema": {"type": "string", "enum": ["hit", "miss"]},
    },
    "X-Ignored-Parameters": {
        "description": "What was asked for and not heeded, by name: with STRICT_PARAMETERS=false, "
        "and wishes of Anthropic's clients that the model does not know.",
        "schema": {"type": "string"},
    },
}
_RATES = [name for name in _HEADERS if name.startswith("x-ratelimit-")]
_KEYS: dict[str, Schema] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key that `vllm-obtain keys create` made, where the service needs one.",
    },
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same key, as Anthropic's clients send it.",
    },
}
_PHRASES = {200: "What was asked for.", 202: "It is under way.", 503: "Not ready."}
_RETRIED = (429, 503)


def describe(routes: Iterable[Route], tags: Mapping[str, str], prefix: str = "") -> bytes:
    """Write the description.

    Args:
        routes: all of them.
        tags: what each group of routes is for, in the order to show.
        prefix: URL_PREFIX.

    Returns:
        JSON.
    """
    table = list(routes)
    paths: dict[str, dict[str, Schema]] = {}
    for route in table:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "vllm-obtain",
                "version": __version__,
                "description": _ABOUT,
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": prefix or "/"}],
            # Without any, where the service has no keys.
            "security": [{}, *({name: []} for name in _KEYS)],
            "tags": [{"name": name, "description": text} for name, text in tags.items()],
            "paths": paths,
            "components": {
                "schemas": _schemas(table),
                "headers": _HEADERS,
                "securitySchemes": _KEYS,
            },
            "x-errors": [code._asdict() for code in CODES.values()],
        }
    )


def _schemas(table: list[Route]) -> dict[str, Schema]:
    requests = [kind for route in table for kind in (route.body, route.query) if kind is not None]
    answers: list[Any] = []
    for route in table:
        answers += [route.error_body, *route.also.values()]
        answers += [] if isinstance(route.answer, str) else [route.answer]
        answers += route.events if isinstance(route.events, tuple) else [route.events]
    return components(requests, [kind for kind in answers if kind is not None])


def _operation(route: Route) -> Schema:
    made: Schema = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "responses": _responses(route),
    }
    if route.access == "open":
        made["security"] = []
    if route.details:
        made["description"] = route.details
    if parameters := [*_arguments(route), *_query(route)]:
        made["parameters"] = parameters
    if route.body is not None:
        content: Schema = {"schema": reference(route.body)}
        if route.example is not None:
            content["example"] = route.example
        made["requestBody"] = {"required": True, "content": {"application/json": content}}
    return made


def _operation_id(route: Route) -> str:
    words = "".join(one if one.isalnum() else " " for one in route.template).split()
    return "_".join([route.method.lower(), *words])


def _arguments(route: Route) -> list[Schema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": route.arguments[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in route.variables
    ]


def _query(route: Route) -> list[Schema]:
    if route.query is None:
        return []
    schema = components([route.query], [])[name_of(route.query)]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": found.pop("description", ""),
            "schema": found,
        }
        for name, found in schema["properties"].items()
    ]


def _responses(route: Route) -> dict[str, Schema]:
    responses = {} if route.answer is None else {"200": _good(route)}
    if route.kept:
        responses["304"] = _response("It is what the client has already (`If-None-Match`).", {})
    for status, kind in route.also.items():
        responses[str(status)] = _response(_PHRASES.get(status, _PHRASES[200]), _content(kind))
    for status in sorted({CODES[code].status for code in route.codes}):
        codes = [CODES[code] for code in route.codes if CODES[code].status == status]
        shown = responses.get(str(status))
        if shown is not None:
            raise ValueError(f"{route.endpoint} answers {status} in two ways")
        text = "\n".join(f"- `{one.code}`: {one.meaning} {one.action}" for one in codes)
        made = _response(text, _content(_error(route, [one.code for one in codes])))
        made["headers"]["x-should-retry"] = _header("x-should-retry")
        if status == 401:
            made["headers"]["WWW-Authenticate"] = _header("WWW-Authenticate")
        if status in _RETRIED:
            made["headers"]["Retry-After"] = _header("Retry-After")
        if "rate_limit_exceeded" in route.errors and status == 429:
            made["headers"] |= {name: _header(name) for name in _RATES}
        responses[str(status)] = made
    return responses


def _good(route: Route) -> Schema:
    content = _content(route.answer)
    if route.events is not None:
        content[route.events_type] = {
            "schema": {"type": "string", "description": route.events_when},
            "x-event": reference(route.events),
        }
    made = _response(_PHRASES[200], content)
    if route.events is not None:
        made["headers"] |= {name: _header(name) for name in ("X-Cache", "X-Ignored-Parameters")}
    if "rate_limit_exceeded" in route.errors:
        made["headers"] |= {name: _header(name) for name in _RATES}
    return made


def _response(text: str, content: Schema) -> Schema:
    headers = {name: _header(name) for name in ("x-request-id", "openai-processing-ms")}
    made: Schema = {"description": text, "headers": headers}
    return made | ({"content": content} if content else {})


def _header(name: str) -> Schema:
    return {"$ref": f"#/components/headers/{name}"}


def _content(answer: Any) -> dict[str, Schema]:
    """Describe what an answer holds: a type or a schema of JSON, or another media type."""
    if isinstance(answer, str):
        return {answer: {"schema": {"type": "string"}}}
    schema = answer if isinstance(answer, dict) else reference(answer)
    return {"application/json": {"schema": schema}}


def _error(route: Route, codes: list[str]) -> Schema:
    schema = reference(route.error_body)
    if route.error_body is not ErrorBody:
        return schema
    detail = {"type": "object", "properties": {"code": {"enum": codes}}}
    return {"allOf": [schema, {"type": "object", "properties": {"error": detail}}]}
