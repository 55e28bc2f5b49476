"""The OpenAPI description matches the routes, the types and the errors."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from flask import Flask

from tests.engine_requests import params
from tests.fuzz.routes import LIMITS, OPTIONS
from tests.fuzz.run import fuzz
from tests.fuzz.strict import event_schema
from tests.service import ROOT, Service
from vllm_obtain import __version__
from vllm_obtain.engines.stream_parser import SSEDecoder
from vllm_obtain.errors import InternalError, ServiceError
from vllm_obtain.gateway.anthropic.render import MessageRenderer
from vllm_obtain.gateway.apidocs import openapi
from vllm_obtain.gateway.app import _add_routes
from vllm_obtain.gateway.core.error_codes import CODES
from vllm_obtain.gateway.routes import ROUTES, TAGS
from vllm_obtain.protocol.events import (
    Event,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from vllm_obtain.protocol.messages import UserMessage
from vllm_obtain.protocol.requests import ChatRequest

PAGE = ROOT / "vllm_obtain" / "gateway" / "apidocs" / "page"
DESCRIPTION: dict[str, Any] = json.loads(openapi.describe(ROUTES, TAGS))
SCHEMAS: dict[str, dict[str, Any]] = DESCRIPTION["components"]["schemas"]
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, item in DESCRIPTION["paths"].items()
    for method, operation in item.items()
}
_VARIABLE, _TEMPLATE = re.compile(r"<(?:\w+:)?(\w+)>"), r"{\1}"


def test_every_route_is_described_and_every_description_has_a_route() -> None:
    app = Flask("bare", static_folder=None)
    _add_routes(app)
    rules = {
        f"{method} {_VARIABLE.sub(_TEMPLATE, rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert rules == set(OPERATIONS)
    assert len(ROUTES) == len(OPERATIONS)


def test_every_field_is_described() -> None:
    assert len(SCHEMAS) > 30
    bare = [
        f"[{name}] {field}"
        for name, schema in SCHEMAS.items()
        for field, found in schema.get("properties", {}).items()
        if not found.get("description")
    ]
    assert bare == [], "describe the fields in vllm_obtain/gateway/apidocs/descriptions.toml"


def test_every_description_belongs_to_a_field() -> None:
    texts = tomllib.loads(
        (ROOT / "vllm_obtain" / "gateway" / "apidocs" / "descriptions.toml").read_text()
    )
    shown = {found["description"] for schema in SCHEMAS.values() for found in _fields(schema)}
    stale = [
        f"[{kind}] {name}"
        for kind, fields in texts.items()
        for name, text in fields.items()
        if text not in shown
    ]
    assert stale == []


def _fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return list(schema.get("properties", {}).values())


def test_every_route_has_a_summary_and_a_group() -> None:
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)
    for operation in OPERATIONS.values():
        assert operation["summary"].endswith(".")
        assert set(operation["tags"]) <= set(TAGS)
        assert "500" in operation["responses"]
    never = [name for name, one in OPERATIONS.items() if "200" not in one["responses"]]
    assert never == ["POST /v1/responses/{name}/cancel"]


def test_every_reference_resolves() -> None:
    for kind, name in re.findall(r'"#/components/(\w+)/([^"]+)"', json.dumps(DESCRIPTION)):
        assert name in DESCRIPTION["components"][kind]


@pytest.mark.parametrize("route", [r for r in ROUTES if r.body], ids=lambda r: r.path)
def test_every_example_is_a_valid_body(route: Any) -> None:
    assert route.example
    msgspec.json.decode(json.dumps(route.example), type=route.body)


def test_types_of_the_same_name_are_prefixed_with_their_api() -> None:
    named = {"ToolCall", "OllamaToolCall", "AnthropicMessage", "OllamaMessage", "ResponseMessage"}
    assert named <= set(SCHEMAS)
    assert not [name for name in SCHEMAS if "." in name]
    item = SCHEMAS["ResponseRequest"]["properties"]["input"]["anyOf"][-2]["items"]
    mapping = item["discriminator"]["mapping"]
    assert mapping["message"] == "#/components/schemas/ResponseMessage"


def test_errors_have_the_format_of_their_api() -> None:
    def shape(operation: str) -> Any:
        answer = OPERATIONS[operation]["responses"]["500"]["content"]["application/json"]["schema"]
        return answer.get("$ref", answer.get("allOf", [{}])[0].get("$ref")).rpartition("/")[2]

    for name in OPERATIONS:
        path = name.partition(" ")[2]
        other = {"/api/": "OllamaErrorAnswer", "/v1/messages": "AnthropicErrorBody"}
        told = next((kind for start, kind in other.items() if path.startswith(start)), "ErrorBody")
        assert shape(name) == told, name


def test_every_event_of_anthropics_streams_is_described() -> None:
    happened: list[list[Event]] = [
        [],
        [ReasoningDelta("Hm")],
        [TextDelta("Yes")],
        [ToolCallDelta(0, "{}", "call_1", "look")],
        [Finish("tool_calls"), Usage(3, 4, reasoning_tokens=1)],
    ]
    request = ChatRequest(model="m", messages=[UserMessage("Hi")])
    renderer = MessageRenderer("m", params(request), "req_1")
    stream = b"".join(renderer.stream(iter(happened))) + renderer.failed(InternalError("Oh"))
    described = event_schema(DESCRIPTION, "/v1/messages", "post")
    validator = jsonschema_rs.validator_for(described)
    events = [json.loads(data) for data in SSEDecoder().feed(stream)]
    for event in events:
        validator.validate(event)
    kinds = {schema["properties"]["type"]["enum"][0] for schema in _events("AnthropicMessageStart")}
    assert {event["type"] for event in events} == kinds


def _events(one: str) -> list[dict[str, Any]]:
    """The schemas of all events of the stream that has one of them."""
    for operation in OPERATIONS.values():
        for content in operation["responses"].get("200", {}).get("content", {}).values():
            parts = content.get("x-event", {}).get("anyOf", ())
            names = [part["$ref"].rpartition("/")[2] for part in parts]
            if one in names:
                return [SCHEMAS[name] for name in names]
    raise AssertionError(one)


def test_ranges_defaults_and_required_fields() -> None:
    chat = SCHEMAS["ChatRequest"]["properties"]
    assert chat["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}
    assert "default" not in chat["temperature"]
    assert SCHEMAS["LoadBody"]["properties"]["wait"]["default"] is True
    assert SCHEMAS["ChatRequest"]["required"] == ["messages"]
    # Constants of a response are required, though their fields have defaults; usage is not.
    assert {"id", "object"} <= set(SCHEMAS["ChatChunk"]["required"])
    assert "usage" not in SCHEMAS["ChatChunk"]["required"]
    stream = OPERATIONS["POST /v1/chat/completions"]["responses"]["200"]["content"]
    assert stream["text/event-stream"]["x-event"] == {"$ref": "#/components/schemas/ChatChunk"}


def test_every_error_that_can_be_raised_has_a_text_and_a_route() -> None:
    for code, status in _error_codes():
        assert code in CODES, f"describe {code} in vllm_obtain/gateway/core/error_codes.py"
        assert status in (None, CODES[code].status), code
    route_codes = {code for route in ROUTES for code in route.codes}
    # Only requests to other paths and methods have these codes.
    assert set(CODES) - route_codes == {"method_not_allowed", "not_supported"}


def _error_codes() -> set[tuple[str, int | None]]:
    """Code and status of every error in the source: of its class, or where it is raised."""
    found: set[tuple[str, int | None]] = set()
    kinds: list[type[ServiceError]] = [ServiceError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind.code:
            found.add((kind.code, kind.status))
    for path in (ROOT / "vllm_obtain").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                variables = {key.arg: getattr(key.value, "value", None) for key in node.keywords}
                if isinstance(code := variables.get("code"), str):
                    found.add((code, variables.get("status")))
    return found


def test_description_is_served_and_cacheable(service: Service) -> None:
    status, headers, body = service.request("/openapi.json")
    assert (status, headers["content-type"]) == (200, "application/json")
    response = json.loads(body)
    assert (response["openapi"], response["info"]["version"]) == ("3.1.0", __version__)
    assert response == DESCRIPTION
    same = {"If-None-Match": headers["etag"]}
    assert service.request("/openapi.json", headers=same)[::2] == (304, b"")
    assert headers["cache-control"] == "no-cache"


def test_page_loads_files_from_this_service_only(service: Service) -> None:
    status, headers, page = service.request("/docs")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.decode())
    assert sorted(named) == ["docs/script.js", "docs/style.css"]
    for name, kind in zip(named, ("text/css", "text/javascript"), strict=True):
        status, headers, body = service.request(f"/{name}")
        assert (status, headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert body == (PAGE / Path(name).name).read_bytes()
        assert service.request(f"/{name}", headers={"If-None-Match": headers["etag"]})[0] == 304


def test_page_has_no_external_resources_and_inserts_no_html() -> None:
    for path in PAGE.iterdir():
        text = path.read_text()
        assert not re.search(r"https?://|//cdn|@import", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|style=", text)


@pytest.mark.parametrize("name", ["index.html", "nothing", "..%2f..%2fapp.py", "%2e%2e/app.py"])
def test_other_files_are_not_served(service: Service, name: str) -> None:
    status, _, body = service.request(f"/docs/{name}")
    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")


def test_error_for_a_name_with_a_line_break_is_described(service: Service) -> None:
    status, _, body = service.request("/v1/models/a%0Ab")
    described = OPERATIONS["GET /v1/models/{name}"]["responses"][str(status)]
    assert f"`{json.loads(body)['error']['code']}`" in described["description"]


def test_doubled_slash_is_not_found_and_not_redirected(service: Service) -> None:
    status, _, body = service.request("/v1//chat/completions", {"messages": []})
    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")


def test_responses_match_the_description(service: Service, tmp_path: Path) -> None:
    options = ("--phases", "examples,fuzzing", "--max-examples", "5", "--seed", "4")
    found = fuzz(service, tmp_path, *options, timeout=120, unloads=1)
    assert not found.failed, found.output
    routes = {key.rpartition(" ")[0] for key in found.statuses}
    assert routes >= set(OPERATIONS)
    made = {key: count for key, count in found.statuses.items() if key.endswith(" 200")}
    asked = (*LIMITS, *OPTIONS)
    assert sum(made.get(f"POST {path} 200", 0) for path in asked) > 10, made
    assert all(made.get(f"POST {path} 200") for path in asked), made
