"""Objects that list their properties get no others, also where several subschemas list them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.chat.test_grammar import allows
from vllm_obtain.chat import grammar
from vllm_obtain.chat.json_schema import enforce, loosen
from vllm_obtain.chat.schema_source import encode

ANY: dict[str, Any] = {}
TEXT = {"type": "string"}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


BASE = of(a=TEXT)
DERIVED = {"allOf": [{"$ref": "#/$defs/base"}, of(b=TEXT)], "$defs": {"base": BASE}}
CLOSED: list[tuple[dict[str, Any], Any, Any]] = [
    (of(a=TEXT), {"a": "x"}, {"a": "x", "z": 1}),
    (of(a=of(b=TEXT)), {"a": {"b": "x"}}, {"a": {"z": 1}}),
    (of(), {}, {"z": 1}),
    ({**of(a=TEXT), "required": ["a", "b"]}, {"a": "x", "b": 1}, {"a": "x", "b": 1, "z": 1}),
    ({**of(a=TEXT), "additionalProperties": None}, {"a": "x"}, {"z": 1}),
    ({"type": "array", "items": of(a=TEXT)}, [{"a": "x"}], [{"z": 1}]),
    ({"type": "array", "prefixItems": [of(a=TEXT)]}, [{"a": "x"}], [{"z": 1}]),
    ({"type": "object", "additionalProperties": of(a=TEXT)}, {"n": {"a": "x"}}, {"n": {"z": 1}}),
    ({"$ref": "#/$defs/base", "$defs": {"base": BASE}}, {"a": "x"}, {"z": 1}),
    (DERIVED, {"a": "x", "b": "x"}, {"a": "x", "z": 1}),
    (
        {"allOf": [BASE, {**of(b=TEXT), "required": ["b"]}]},
        {"a": "x", "b": "x"},
        {"b": "x", "z": 1},
    ),
    ({**of(b=TEXT), "$ref": "#/$defs/base", "$defs": {"base": BASE}}, {"a": "x"}, {"z": 1}),
    ({"anyOf": [of(a=TEXT), of(b=TEXT)]}, {"b": "x"}, {"z": 1}),
    (
        {**of(a=TEXT), "anyOf": [{**of(b=TEXT), "required": ["b"]}, {"required": ["a"]}]},
        {"a": "x"},
        {"a": "x", "z": 1},
    ),
    (
        {"allOf": [{"allOf": [of(a=TEXT)]}, {"anyOf": [of(b=TEXT), of(c=TEXT)]}]},
        {"a": "x", "c": "x"},
        {"a": "x", "z": 1},
    ),
    (of(properties=of(type=TEXT)), {"properties": {"type": "x"}}, {"properties": {"z": 1}}),
]
OPEN: list[tuple[dict[str, Any], Any]] = [
    ({"type": "object"}, {"z": 1}),
    ({"type": "object", "required": ["a"]}, {"a": 1, "z": 1}),
    ({**of(a=TEXT), "additionalProperties": True}, {"z": 1}),
    ({**of(a=TEXT), "additionalProperties": {"type": "integer"}}, {"z": 1}),
    ({**of(a=TEXT), "patternProperties": {"^z": {}}}, {"z": 1}),
    (of(a={"type": "object"}), {"a": {"z": 1}}),
    ({"allOf": [of(a=TEXT), {"type": "object", "additionalProperties": True}]}, {"z": 1}),
    ({"const": {"properties": {}, "z": 1}}, {"properties": {}, "z": 1}),
    (ANY, {"z": 1}),
]


@pytest.mark.parametrize("read", [enforce, loosen])
@pytest.mark.parametrize(("schema", "valid", "invalid"), CLOSED)
def test_listed_properties_are_all(read: Any, schema: Any, valid: Any, invalid: Any) -> None:
    lark = grammar.of_schema(read(encode(schema)).schema)
    assert allows(lark, json.dumps(valid))
    assert not allows(lark, json.dumps(invalid))


@pytest.mark.parametrize("read", [enforce, loosen])
@pytest.mark.parametrize(("schema", "valid"), OPEN)
def test_other_objects_stay_open(read: Any, schema: Any, valid: Any) -> None:
    assert allows(grammar.of_schema(read(encode(schema)).schema), json.dumps(valid))


def test_a_schema_of_many_parts_ends() -> None:
    part = of(**{f"p{n}": TEXT for n in range(200)})
    ring = {"allOf": [{"$ref": "#"}, {"$ref": "#/$defs/part"}], "$defs": {"part": part}}
    many = of(**{f"q{n}": {"allOf": [{"$ref": "#/$defs/part"}]} for n in range(500)})
    for schema in (ring, {**many, "$defs": {"part": copy.deepcopy(part)}}):
        assert loosen(encode(schema)).schema
