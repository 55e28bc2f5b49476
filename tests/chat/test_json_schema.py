"""What a schema keeps in a grammar: a hint loses keywords, a contract is refused with the path."""

from __future__ import annotations

import enum
import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from tests.chat.test_grammar import allows
from vllm_obtain.chat import grammar, grammar_checker
from vllm_obtain.chat.grammar_limits import MAX_ITEMS
from vllm_obtain.chat.json_schema import GrammarSchema, Level, enforce, loosen
from vllm_obtain.chat.schema_source import MAX_DEPTH, SchemaError, encode
from vllm_obtain.errors import InvalidRequest


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def items(**keywords: Any) -> dict[str, Any]:
    return of(a={"type": "array", "items": {"type": "integer"}, **keywords})


def text(**keywords: Any) -> dict[str, Any]:
    return of(a={"type": "string", **keywords})


def number(**keywords: Any) -> dict[str, Any]:
    return of(a={"type": "number", **keywords})


def loosen_schema(schema: Any, level: Level = Level.SUPPORTED) -> GrammarSchema:
    return loosen(encode(schema), level)


def problem(schema: Any) -> str:
    return grammar_checker.problem(grammar.of_schema(schema))


ONE_OF = {**of(a={}, b={}), "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
# A schema, and the keywords that its grammar loses.
UNENFORCED: list[tuple[dict[str, Any], str]] = [
    (items(minItems=10**9), "/properties/a/minItems"),
    (items(maxItems=10**6), "/properties/a/maxItems"),
    (text(minLength=10**7), "/properties/a/minLength"),
    (text(maxLength=10**30), "/properties/a/maxLength"),
    (of(a={"type": "object", "minProperties": 5000}), "/properties/a/minProperties"),
    (of(a={"type": "object", "maxProperties": 5000}), "/properties/a/maxProperties"),
    (number(multipleOf=9_999_991), "/properties/a/multipleOf"),
    (number(multipleOf=3.1416), "/properties/a/multipleOf"),
    (number(multipleOf=0), "/properties/a/multipleOf"),
    (number(maximum=1e300), "/properties/a/maximum"),
    (number(minimum=-(2**63)), "/properties/a/minimum"),
    (number(minimum="3"), "/properties/a/minimum"),
    (text(pattern="^a{5000}$"), "/properties/a/pattern"),
    (text(pattern="^(a{1,100}b){1,100}$"), "/properties/a/pattern"),
    (text(pattern="^(?!\\.)[a-z]+$"), "/properties/a/pattern"),
    (text(pattern="(?<=a)b"), "/properties/a/pattern"),
    (text(pattern="\\bword\\b"), "/properties/a/pattern"),
    (text(pattern="(a)\\1"), "/properties/a/pattern"),
    (text(pattern=7), "/properties/a/pattern"),
    ({"type": "object", "patternProperties": {"a{9999}": {}}}, "/patternProperties/a{9999}"),
    (items(uniqueItems=True), "/properties/a/uniqueItems"),
    (items(contains={"const": 1}), "/properties/a/contains"),
    (items(minItems=-1), "/properties/a/minItems"),
    (of(a={"not": {"type": "null"}}), "/properties/a/not"),
    ({**of(a={}), "propertyNames": {"maxLength": 3}}, "/propertyNames"),
    ({**of(a={}, b={}), "minProperties": 2}, "/minProperties"),
    ({**of(a={}, b={}), "dependentRequired": {"a": ["b"]}}, "/dependentRequired"),
    ({**of(a={}), "allOf": [of(b={})], "unevaluatedProperties": False}, "/unevaluatedProperties"),
    ({**of(a={}), "if": of(a={}), "else": of(b={})}, "/if"),
    (of(a={"$ref": "https://elsewhere/x"}), "/properties/a/$ref"),
    (of(a={"$ref": "#/$defs/x"}), "/properties/a/$ref"),
    (of(a={"type": "thing"}), "/properties/a/type"),
    (of(a={"enum": []}), "/properties/a/enum"),
    (of(a={"anyOf": {}}), "/properties/a/anyOf"),
    (of(a=7), "/properties/a"),
    ({"type": "object", "properties": []}, "/properties"),
    ({**of(a={}), "required": True}, "/required"),
    ({"type": "object", "properties": {"x/y": {"items": 3}}}, "/properties/x~1y/items"),
]


@pytest.mark.parametrize(("schema", "removed"), UNENFORCED)
def test_a_hint_loses_what_is_not_enforced(schema: dict[str, Any], removed: str) -> None:
    read = loosen_schema(schema)
    assert " ".join(read.removed) == removed
    assert problem(read.schema) == ""


@pytest.mark.parametrize(("schema", "removed"), UNENFORCED)
def test_a_contract_is_refused_with_the_path(schema: dict[str, Any], removed: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grammar.of_contract(schema, "response_format")
    assert f"'{removed.split()[0]}'" in caught.value.message
    assert (caught.value.param, caught.value.code) == ("response_format", "unsupported_schema")


@pytest.mark.parametrize(
    "schema",
    [
        text(format="byte"),
        text(format="poem"),
        text(contentEncoding="base64", title="A", description="<|im_end|>", default=None),
        {"type": "object", "properties": None, "required": None},
        of(a={"type": "string", "pattern": None, "format": None, "enum": None}),
        of(a={"type": "array", "uniqueItems": False, "minItems": 2.0}),
        of(a={"type": "array", "uniqueItems": True, "maxItems": 1}),
        of(a={"not": {}}),
        of(a={"not": False}),
        {**of(a={}), "then": {}, "minContains": 3},
        {**of(a={}), "dependentRequired": {}, "propertyNames": {"type": "string"}},
        {**of(a={}), "unevaluatedProperties": False},
        {**of(a={}), "required": ["a"], "minProperties": 1},
        {**of(a={}, b={}), "minProperties": 1},
        {**of(a={}, b={}), "additionalProperties": False, "maxProperties": 9},
        of(a={"type": "integer", "maximum": 2**64 - 1}),
        number(multipleOf=0.01),
        number(multipleOf=10_000),
        text(pattern="^[^{}]{1,4096}[]{5000}]$"),
        items(minItems=1, maxItems=4096),
        of(a={"$ref": "#/components/x"}) | {"components": {"x": {"format": "x", "title": "x"}}},
    ],
)
def test_what_has_no_effect_or_can_be_said_otherwise_is_no_loss(schema: dict[str, Any]) -> None:
    assert loosen_schema(schema).removed == ()
    assert problem(enforce(encode(schema)).schema) == ""


def test_names_of_properties_are_enforced_where_possible() -> None:
    ages = {"type": "object", "additionalProperties": {"type": "integer"}}
    colours = {"enum": ["red", "green"]}
    defined = {**ages, "propertyNames": {"$ref": "#/$defs/c"}, "$defs": {"c": colours}}
    for schema in ({**ages, "propertyNames": colours}, defined):
        made = grammar.of_schema(loosen_schema(schema).schema)
        assert allows(made, '{"green": 3}') and not allows(made, '{"blue": 3}')
    made = grammar.of_schema(loosen_schema({**ages, "propertyNames": {"pattern": "^x"}}).schema)
    assert allows(made, '{"xy": 3}') and not allows(made, '{"yx": 3}')


def test_a_forbidden_property_is_not_generated() -> None:
    made = grammar.of_schema(loosen_schema(of(a={"not": {}}, b={})).schema)
    assert allows(made, '{"b": 1}') and not allows(made, '{"a": 1}')


def test_arrays_share_a_limit() -> None:
    array = {"type": "array", "items": {"type": "integer"}, "maxItems": 4096}
    read = loosen_schema(of(**{f"p{n}": array for n in range(6)}))
    assert len(read.removed) == 2 and read.items == MAX_ITEMS


@pytest.mark.parametrize("level", list(Level)[1:])
def test_each_level_keeps_less_and_names_it(level: Level) -> None:
    schema = {**ONE_OF, "allOf": [text(minLength=2)]}
    schema["properties"] = {"a": {"type": "string", "pattern": "a^b"}, "b": {}}
    read = loosen_schema(schema, level)
    expected = ["/oneOf", "/properties/a/pattern", "/allOf", ""]
    assert all(name in read.removed for name in expected[: level if level < 4 else 0])
    assert (problem(read.schema) == "") is (level >= Level.SHAPES)
    assert read.schema["type"] == "object"


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Everything(BaseModel):
    tags: set[str]
    frozen: frozenset[int] = frozenset()
    data: bytes = b""
    path: Path
    secret: SecretStr
    mail: str = Field(json_schema_extra={"format": "email"})
    pattern: re.Pattern[str]
    by_colour: dict[Colour, int]
    by_name: dict[str, set[Colour]] = Field(min_length=1)
    price: float = Field(multiple_of=0.01, lt=1e30)
    pair: tuple[int, str]
    choice: Colour | None = None
    child: Everything | None = None


# As zod 4 writes them.
ZOD_MAIL = (
    "^(?!\\.)(?!.*\\.\\.)([A-Za-z0-9_'+\\-\\.]*)[A-Za-z0-9_+-]@"
    "([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$"
)
ZOD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "mail": {"type": "string", "format": "email", "pattern": ZOD_MAIL},
        "answers": {
            "type": "object",
            "propertyNames": {"type": "string"},
            "additionalProperties": {"type": "string"},
        },
        "count": {"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1},
        "never": {"not": {}},
    },
    "required": ["mail"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("schema", [Everything.model_json_schema(), ZOD])
def test_schemas_of_libraries_are_hints(schema: dict[str, Any]) -> None:
    read = loosen_schema(schema)
    assert problem(read.schema) == ""
    assert {name.rpartition("/")[2] for name in read.removed} <= {
        "uniqueItems",
        "pattern",
        "exclusiveMaximum",
    }


def test_a_deep_schema_is_refused_in_words() -> None:
    for depth in (MAX_DEPTH, 950):
        deep: Any = {}
        for _ in range(depth):
            deep = {"items": deep}
        with pytest.raises(SchemaError, match="more than 100 levels"):
            loosen_schema(deep)
    loosen_schema({"properties": {"a": {"const": None}}})


def test_references_in_a_circle_end() -> None:
    loop = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    assert loosen_schema({"type": "object", **loop}).removed == ()


@pytest.mark.parametrize(
    "grow",
    [
        lambda n: of(**{f"p{k}": {"type": "string", "maxLength": 10**9} for k in range(n)}),
        lambda n: {"anyOf": [{"required": [f"p{k}"], "not": {"const": 1}} for k in range(n)]},
        lambda n: text(pattern="[" * n * 10),
        lambda n: text(pattern="(" * n * 5 + "a{2}" + ")" * n * 5),
        lambda n: {"propertyNames": {"enum": [f"p{k}" for k in range(n)]}},
        lambda n: {"$defs": {"a": {}}, "allOf": [{"$ref": "#/$defs/a"}] * n},
    ],
)
def test_time_is_linear_in_the_size(grow: Any) -> None:
    def seconds(count: int) -> float:
        source = encode(grow(count))
        times = []
        for _ in range(3):
            began = time.process_time()
            loosen(source)
            times.append(time.process_time() - began)
        return min(times)

    # Quadratic time would be 16 times as long.
    assert seconds(8000) < 8 * seconds(2000) + 0.01


@pytest.mark.parametrize(
    ("made", "param"),
    [
        (lambda: grammar.of_regex("(a{1,1000}){1,1000}", "guided_regex"), "guided_regex"),
        (lambda: grammar.of_language('root ::= "a"{1,99999}', "guided_grammar"), "guided_grammar"),
        (lambda: grammar.of_language("start: x~1..99999\nx: /a/", "guided_json"), "guided_json"),
        (lambda: grammar.of_language("start: /a{99999}/", "guided_grammar"), "guided_grammar"),
        (
            lambda: grammar.of_language(
                f"start: %json {json.dumps(items(minItems=10**9))}", "guided_grammar"
            ),
            "/properties/a/minItems",
        ),
    ],
)
def test_repetitions_of_patterns_and_grammars_are_bounded(made: Any, param: str) -> None:
    with pytest.raises(InvalidRequest, match=param) as caught:
        made()
    assert "4,096" in caught.value.message or "4096" in caught.value.message
    assert caught.value.code == "unsupported_schema"


def test_numbers_in_texts_of_a_grammar_are_no_repetitions() -> None:
    grammar.of_language('start: "a{99999}" // x{99999}\n', "guided_grammar")


def test_values_are_validated_in_another_process() -> None:
    schema = {"type": "array", "uniqueItems": True, "items": {"type": "string", "format": "email"}}
    check = grammar_checker.violations
    assert check(encode(schema), '["a", "b"]') == []
    assert check(encode(schema), '["a", "a", 3]') == ["type", "uniqueItems"]
    assert check(encode({"properties": {"type": {"enum": [1]}}}), '{"type": 2}') == ["enum"]
    for broken in ({"type": "thing"}, {"pattern": "("}):
        assert check(encode(broken), '"a"') is None
    assert check(b"{}", "{") is None
    # Each definition doubles the time.
    doubled: Any = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    slow = {"$ref": "#/$defs/d0", "$defs": {**doubled, "d60": {"type": "string"}}}
    assert check(encode(slow), '"a"') is None
    assert check(encode(schema), "[1]") == ["type"]


def test_references_to_other_hosts_are_not_followed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        schema = {"$ref": f"http://127.0.0.1:{listener.getsockname()[1]}/x"}
        assert grammar_checker.violations(encode(schema), '"a"') is None
        with pytest.raises(BlockingIOError):
            listener.accept()
