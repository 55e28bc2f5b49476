"""Generates the OpenAPI 3.1 description from the route table and its types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from vllm_obtain import __version__
from vllm_obtain.gateway.admin.types import ErrorBody
from vllm_obtain.gateway.apidocs.json_schema import Schema, components, name_of, reference
from vllm_obtain.gateway.core.error_codes import CODES
from vllm_obtain.gateway.core.route import Route

_ABOUT = (
    "Self-hosted LLM server with the OpenAI, Anthropic and Ollama APIs.\n\n"
    "Fields that change the result are honoured or rejected with a 400 "
    "(`unsupported_parameter`); others are ignored and named in `X-Ignored-Parameters`. "
    "Every error message says what to do."
)
_HEADERS: dict[str, Schema] = {
    "x-request-id": {
        "description": "Request id, as in the logs. Clients may set it.",
        "required": True,
        "schema": {"type": "string"},
    },
    "openai-processing-ms": {
        "description": "Milliseconds until the response or its first chunk.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "Retry-After": {
        "description": "Seconds to wait before a retry, at most 120.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    **{
        f"x-ratelimit-{value}-{unit}": {
            "description": f"{text}; only if the API key has this limit.",
            "schema": {"type": "string"},
        }
        for unit in ("requests", "tokens")
        for value, text in (
            ("limit", f"Allowed {unit} per minute"),
            ("remaining", f"Remaining {unit}"),
            ("reset", f"Time until all {unit} are available again, such as 1.5s"),
        )
    },
    "WWW-Authenticate": {
        "description": "Authentication scheme.",
        "schema": {"type": "string", "enum": ["Bearer"]},
    },
    "x-should-retry": {
        "description": "Whether to retry; read by the official SDKs.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "X-Cache": {
        "description": "Whether the response came from the response cache.",
        "schema": {"type": "string", "enum": ["hit", "miss"]},
    },
    "X-Ignored-Parameters": {
        "description": "Names of fields without effect: unknown and advisory ones, and with "
        "STRICT_PARAMETERS=lenient unsupported ones.",
        "schema": {"type": "string"},
    },
    "X-Unenforced-Schema": {
        "description": "JSON Schema keywords of tools that are not strict, which do not constrain "
        "the generated arguments: the name of the tool, `#` and a JSON pointer.",
        "schema": {"type": "string"},
    },
}
_RATE_LIMIT_HEADERS = [name for name in _HEADERS if name.startswith("x-ratelimit-")]
_SECURITY_SCHEMES: dict[str, Schema] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "API key from `vllm-obtain keys create`, if authentication is enabled.",
    },
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same key in the header of Anthropic clients.",
    },
}
_STATUS_TEXTS = {200: "Success.", 202: "In progress.", 503: "Not ready."}
_STATUSES_WITH_RETRY_AFTER = (429, 503)


def describe(routes: Iterable[Route], tags: Mapping[str, str], prefix: str = "") -> bytes:
    """Render the description as JSON.

    Args:
        routes: all routes.
        tags: descriptions of the groups of routes, in display order.
        prefix: the value of URL_PREFIX.
    """
    routes = list(routes)
    paths: dict[str, dict[str, Schema]] = {}
    for route in routes:
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
            # The empty entry stands for a service without API keys.
            "security": [{}, *({name: []} for name in _SECURITY_SCHEMES)],
            "tags": [{"name": name, "description": text} for name, text in tags.items()],
            "paths": paths,
            "components": {
                "schemas": _schemas(routes),
                "headers": _HEADERS,
                "securitySchemes": _SECURITY_SCHEMES,
            },
            "x-errors": [code._asdict() for code in CODES.values()],
        }
    )


def _schemas(routes: list[Route]) -> dict[str, Schema]:
    requests = [kind for route in routes for kind in (route.body, route.query) if kind is not None]
    responses: list[Any] = []
    for route in routes:
        responses += [route.error_body, *route.other_responses.values()]
        responses += [] if isinstance(route.response, str) else [route.response]
        responses += route.events if isinstance(route.events, tuple) else [route.events]
    return components(requests, [kind for kind in responses if kind is not None])


def _operation(route: Route) -> Schema:
    operation: Schema = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "responses": _responses(route),
    }
    if route.access == "open":
        operation["security"] = []
    if route.details:
        operation["description"] = route.details
    if parameters := [*_path_parameters(route), *_query_parameters(route)]:
        operation["parameters"] = parameters
    if route.body is not None:
        content: Schema = {"schema": reference(route.body)}
        if route.example is not None:
            content["example"] = route.example
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


def _operation_id(route: Route) -> str:
    words = "".join(char if char.isalnum() else " " for char in route.template).split()
    return "_".join([route.method.lower(), *words])


def _path_parameters(route: Route) -> list[Schema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": route.path_parameters[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in route.variables
    ]


def _query_parameters(route: Route) -> list[Schema]:
    if route.query is None:
        return []
    schema = components([route.query], [])[name_of(route.query)]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": field.pop("description", ""),
            "schema": field,
        }
        for name, field in schema["properties"].items()
    ]


def _responses(route: Route) -> dict[str, Schema]:
    responses = {} if route.response is None else {"200": _success(route)}
    if route.cacheable:
        responses["304"] = _response("Not modified (`If-None-Match`).", {})
    for status, kind in route.other_responses.items():
        text = _STATUS_TEXTS.get(status, _STATUS_TEXTS[200])
        responses[str(status)] = _response(text, _content(kind))
    for status in sorted({CODES[code].status for code in route.codes}):
        codes = [CODES[code] for code in route.codes if CODES[code].status == status]
        if str(status) in responses:
            raise ValueError(f"{route.endpoint} has an error and a response of status {status}")
        text = "\n".join(f"- `{code.code}`: {code.meaning} {code.action}" for code in codes)
        response = _response(text, _content(_error(route, [code.code for code in codes])))
        response["headers"]["x-should-retry"] = _header("x-should-retry")
        if status == 401:
            response["headers"]["WWW-Authenticate"] = _header("WWW-Authenticate")
        if status in _STATUSES_WITH_RETRY_AFTER:
            response["headers"]["Retry-After"] = _header("Retry-After")
        if "rate_limit_exceeded" in route.errors and status == 429:
            response["headers"] |= {name: _header(name) for name in _RATE_LIMIT_HEADERS}
        responses[str(status)] = response
    return responses


def _success(route: Route) -> Schema:
    content = _content(route.response)
    if route.events is not None:
        content[route.events_type] = {
            "schema": {"type": "string", "description": route.events_when},
            "x-event": reference(route.events),
        }
    response = _response(_STATUS_TEXTS[200], content)
    headers = response["headers"]
    if route.events is not None:
        names = ("X-Cache", "X-Ignored-Parameters", "X-Unenforced-Schema")
        headers |= {name: _header(name) for name in names}
    if "rate_limit_exceeded" in route.errors:
        headers |= {name: _header(name) for name in _RATE_LIMIT_HEADERS}
    return response


def _response(text: str, content: Schema) -> Schema:
    headers = {name: _header(name) for name in ("x-request-id", "openai-processing-ms")}
    response: Schema = {"description": text, "headers": headers}
    return response | ({"content": content} if content else {})


def _header(name: str) -> Schema:
    return {"$ref": f"#/components/headers/{name}"}


def _content(body: Any) -> dict[str, Schema]:
    """Describe a response body, given as a type, a JSON Schema or a media type."""
    if isinstance(body, str):
        return {body: {"schema": {"type": "string"}}}
    schema = body if isinstance(body, dict) else reference(body)
    return {"application/json": {"schema": schema}}


def _error(route: Route, codes: list[str]) -> Schema:
    schema = reference(route.error_body)
    if route.error_body is not ErrorBody:
        return schema
    detail = {"type": "object", "properties": {"code": {"enum": codes}}}
    return {"allOf": [schema, {"type": "object", "properties": {"error": detail}}]}
