"""What engines cannot enforce in schemas of tools: no error on any API, named, and validated."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.chat.test_json_schema import ZOD, Everything
from tests.models.gguf_files import TINY
from tests.profiles import Fakes
from tests.waiting import eventually

ASK = "Hi"
# Calls without white space, so that the fake engine can echo one.
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}<calls>{% for call in m.tool_calls %}<call>{{ call.function.name }}<sep>"
    "{{ call.function.arguments | tojson }}</call>{% endfor %}</calls>{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
METRIC = 'vllm_obtain_tool_argument_violations_total{keyword="uniqueItems"}'


def tags(**keywords: Any) -> dict[str, Any]:
    array = {"type": "array", "items": {"type": "string"}, **keywords}
    return {"type": "object", "properties": {"tags": array}, "required": ["tags"]}


def chat(schema: Any, text: str = ASK, **more: Any) -> tuple[str, dict[str, Any]]:
    function = {"name": "save", "parameters": schema, **more}
    message = {"role": "user", "content": text}
    return "/v1/chat/completions", {
        "messages": [message],
        "tools": [{"type": "function", "function": function}],
    }


def messages(schema: Any, text: str = ASK, **more: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/messages", {
        "max_tokens": 99,
        "messages": [{"role": "user", "content": text}],
        "tools": [{"name": "save", "input_schema": {"type": "object", **schema}, **more}],
    }


def responses(schema: Any, text: str = ASK, **more: Any) -> tuple[str, dict[str, Any]]:
    tool = {"type": "function", "name": "save", "parameters": schema, **more}
    return "/v1/responses", {"input": text, "tools": [tool], "store": False}


def ollama(schema: Any, text: str = ASK) -> tuple[str, dict[str, Any]]:
    _, body = chat(schema, text)
    return "/api/chat", {**body, "stream": False}


APIS = [chat, messages, responses, ollama]


@pytest.fixture(scope="module")
def model(fakes: Fakes) -> str:
    return fakes.add("calls", {**TINY, "tokenizer.chat_template": TEMPLATE})


def ask(fakes: Fakes, model: str, request: tuple[str, dict[str, Any]]) -> Any:
    path, body = request
    return fakes.request(path, {"model": model, **body})


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("schema", "header"),
    [
        (tags(uniqueItems=True), "save#/properties/tags/uniqueItems"),
        (tags(minItems=10**9), "save#/properties/tags/minItems"),
        (
            {"type": "object", "properties": None, "propertyNames": {"maxLength": 3}},
            "save#/propertyNames",
        ),
        (
            {"properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            "save#/oneOf",
        ),
        (tags(items={"pattern": "a^b"}), "save#/properties/tags/items/pattern"),
        (tags(format="poem"), None),
    ],
)
def test_a_hint_is_no_error_and_named(
    fakes: Fakes, model: str, api: Any, schema: dict[str, Any], header: str | None
) -> None:
    status, headers, body = ask(fakes, model, api(schema))
    assert status == 200, body
    assert headers.get("x-unenforced-schema") == header


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("schema", [Everything.model_json_schema(), ZOD], ids=["pydantic", "zod"])
def test_schemas_of_libraries_are_accepted(
    fakes: Fakes, model: str, api: Any, schema: dict[str, Any]
) -> None:
    status, _, body = ask(fakes, model, api(schema))
    assert status == 200, body


@pytest.mark.parametrize("api", [chat, messages, responses])
def test_a_contract_is_refused_with_the_path(fakes: Fakes, model: str, api: Any) -> None:
    for keywords in ({"uniqueItems": True}, {"maxItems": 10**6}):
        status, _, body = ask(fakes, model, api(tags(**keywords), strict=True))
        message = json.loads(body)["error"]["message"]
        assert status == 400 and f"'/properties/tags/{next(iter(keywords))}'" in message, message


@pytest.mark.parametrize("api", APIS)
def test_a_deep_schema_is_refused_in_words(fakes: Fakes, model: str, api: Any) -> None:
    # The JSON parser stops at some 970 levels.
    for depth, words in ((55, "more than 100 levels"), (460, "more than 100 levels"), (475, "")):
        deep = '{"type": "string"}'
        for _ in range(depth):
            deep = f'{{"type": "object", "properties": {{"a": {deep}}}}}'
        path, request = api({"title": "deep"})
        # As text, because json.dumps is recursive itself.
        text = json.dumps({"model": model, **request}).replace('"title": "deep"', deep[1:-1])
        status, _, body = fakes.request(path, text.encode())
        assert status == 400 and words.encode() in body, (depth, body)


@pytest.mark.parametrize("api", APIS)
def test_a_number_that_no_machine_holds_is_no_error(fakes: Fakes, model: str, api: Any) -> None:
    path, body = api({"type": "object", "properties": {"a": {"type": "number", "maximum": 7.25}}})
    text = json.dumps({"model": model, **body}).replace("7.25", "1.8e308").encode()
    status, headers, answer = fakes.request(path, text)
    assert status == 200, answer
    assert headers["x-unenforced-schema"] == "save#/properties/a/maximum"


@pytest.mark.parametrize("api", APIS)
def test_a_tool_without_parameters_is_no_error(fakes: Fakes, model: str, api: Any) -> None:
    path, body = api({})
    if api is not messages:  # which requires them
        function = body["tools"][0].get("function", body["tools"][0])
        function["parameters"] = None
    status, headers, answer = ask(fakes, model, (path, body))
    assert status == 200 and "x-unenforced-schema" not in headers, answer


def test_a_strict_tool_stays_strict_beside_a_hint(fakes: Fakes, model: str) -> None:
    path, body = chat(tags(uniqueItems=True))
    other = {"name": "other", "parameters": tags(minItems=1), "strict": True}
    body["tools"].append({"type": "function", "function": other})
    status, headers, answer = ask(fakes, model, (path, body))
    assert status == 200, answer
    assert headers["x-unenforced-schema"] == "save#/properties/tags/uniqueItems"


def test_the_header_is_bounded(fakes: Fakes, model: str) -> None:
    names = {f"property{n}": {"type": "array", "uniqueItems": True} for n in range(500)}
    status, headers, _ = ask(fakes, model, chat({"type": "object", "properties": names}))
    assert status == 200 and len(headers["x-unenforced-schema"]) == 1024
    assert headers["x-unenforced-schema"].endswith("...")


def violations(fakes: Fakes) -> float:
    text = fakes.request("/metrics")[2].decode()
    found = re.search(rf"^{re.escape(METRIC)} (.*)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
def test_arguments_are_validated_and_violations_counted(
    fakes: Fakes, model: str, api: Any, stream: bool
) -> None:
    before = violations(fakes)
    for arguments in ('{"tags":["secret-one","secret-one"]}', '{"tags":["secret-one"]}'):
        call = f"<calls><call>save<sep>{arguments}</call></calls>"
        path, body = api(tags(uniqueItems=True), call)
        status, _, answer = ask(fakes, model, (path, {**body, "stream": stream}))
        assert status == 200 and b"save" in answer, answer
    eventually(lambda: violations(fakes) == before + 1)
    lines = [
        line
        for line in fakes.logged("app.log")
        if line["event"] == "tool argument violations detected"
    ]
    assert lines[-1]["keywords"] == ["uniqueItems"] and lines[-1]["request_id"]
    assert "secret-one" not in json.dumps(lines)
