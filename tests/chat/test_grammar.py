"""What grammars allow, tried byte by byte; and what is refused before an engine sees it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from vllm_obtain.chat import grammar
from vllm_obtain.chat.reasoning_tags import ReasoningTags
from vllm_obtain.chat.tool_call_format import ToolCallFormat
from vllm_obtain.chat.tool_prompt import FORMAT
from vllm_obtain.errors import InvalidRequest

BARE = ToolCallFormat('{"name": "', '", "parameters": ', None, "}")
THINK = ReasoningTags("<think>", "</think>")


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    parameters = {**schema, "additionalProperties": False}
    return {"name": name, "parameters": parameters}


TOOLS = [tool("get", city={"type": "string", "maxLength": 8}), {"name": "any"}]
GET = ("get", '{"city": "Rome"}')
CALL = FORMAT.write([GET])


def allows(made: str, text: str) -> bool:
    matcher = LLMatcher(LLTokenizer("byte"), made, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def calls(
    required: bool, several: bool = True, spelled: ToolCallFormat = FORMAT, **more: Any
) -> str:
    return grammar.of_calls(spelled, TOOLS, required, several, **more)


@pytest.mark.parametrize("required", [True, False])
def test_calls_are_held_to_their_schemas(required: bool) -> None:
    tool_calls = calls(required)
    assert allows(tool_calls, CALL)
    assert allows(tool_calls, FORMAT.write([GET, ("any", '{"x": [1, {}]}')]))
    for wrong in (("get", "{}"), ("get", '{"city": 1}'), ("put", "{}"), ("any", "[]")):
        assert not allows(tool_calls, FORMAT.write([wrong])), wrong
    assert not allows(tool_calls, FORMAT.write([("get", '{"city": "much too long"}')]))
    assert not allows(tool_calls, CALL[:-1])
    assert not allows(calls(required, several=False), FORMAT.write([GET, GET]))


def test_text_may_stand_instead_of_calls_or_before_them_if_none_is_required() -> None:
    for text in ("Hello.", "", "a < b", "many\nlines\n"):
        assert allows(calls(False), text)
        assert not allows(calls(True), text)
    assert allows(calls(False), "Let me see.\n" + CALL)
    assert not allows(calls(False), "A <tool_call> is a tag.")
    assert not allows(calls(True), "Let me see.\n" + CALL)


def test_calls_without_a_mark_stand_alone() -> None:
    tool_calls = calls(False, spelled=BARE)
    assert allows(tool_calls, BARE.write([GET]))
    assert allows(tool_calls, 'Say {"name": "x"}.')
    assert not allows(tool_calls, '{"name": "get" or so')


def test_a_form_may_stand_instead_of_calls() -> None:
    tool_calls = calls(False, content=grammar.of_schema({"type": "integer"}))
    assert allows(tool_calls, "42") and allows(tool_calls, CALL)
    assert not allows(tool_calls, "forty-two")


@pytest.mark.parametrize("begun", [True, False])
def test_a_model_may_reason_first(begun: bool) -> None:
    opened = "" if begun else "<think>"
    for required in (True, False):
        made = calls(required, excluded_prefix="" if begun else "<think>")
        made = grammar.after_reasoning(made, THINK, begun)
        assert allows(made, f"{opened}Hm, <tool_call>?</think>\n\n{CALL}")
        assert allows(made, f"{opened}Hm.</think>Hello.") is not required
        assert allows(made, CALL) is not begun


@pytest.mark.parametrize(
    ("made", "right", "wrong"),
    [
        (grammar.of_object(), '{"a": [1, null]}', "[]"),
        (grammar.of_choice(["yes", 'no "x"\n']), 'no "x"\n', "maybe"),
        (grammar.of_regex(r"\d{3}/[a-z]+", "guided_regex"), "123/abc", "12/abc"),
        (grammar.of_regex(r"a\/b", "guided_regex"), "a/b", "ab"),
        (grammar.of_language('root ::= "a" b+\nb ::= [0-9]', "g"), "a12", "a"),
        (grammar.of_language('start: "a" /b+/', "g"), "abb", "a"),
    ],
)
def test_forms(made: str, right: str, wrong: str) -> None:
    grammar.check(made, "x")
    assert allows(made, right) and not allows(made, wrong)


TREE = {
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (TREE, {"next": {"next": {}}}, {"next": 1}),
        ({"enum": ["a", 1, None]}, None, 2),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, None, "x"),
        ({"type": "array", "items": {"type": "number"}, "maxItems": 2}, [1, 2.5], [1, 2, 3]),
        ({"type": "string", "format": "date"}, "2026-11-22", "today"),
        ({"type": "string", "pattern": "^[a-c]+$"}, "abc", "abd"),
        ({"type": "integer", "minimum": 3, "maximum": 12}, 12, 13),
        (True, [1], None),
    ],
)
def test_schemas(schema: Any, right: Any, wrong: Any) -> None:
    made = grammar.of_schema(schema)
    grammar.check(made, "x")
    assert allows(made, json.dumps(right))
    assert schema is True or not allows(made, json.dumps(wrong))


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"not": {"type": "null"}}, "'/not'"),
        ({"type": "array", "uniqueItems": True}, "'/uniqueItems'"),
        ({"type": "string", "pattern": "(?=a)"}, "(?="),
        ({"$ref": "https://elsewhere/x"}, "'/$ref'"),
        ({"type": "thing"}, "'/type'"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
    ],
)
def test_what_cannot_be_held_is_refused_and_named(schema: Any, named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grammar.check(grammar.of_contract(schema, "response_format"), "response_format")
    assert named in caught.value.message
    assert (caught.value.param, caught.value.code) == ("response_format", "unsupported_schema")


def test_a_huge_schema_is_quick_or_refused() -> None:
    began = time.monotonic()
    grammar.check(grammar.of_schema({"enum": [f"value{n}" for n in range(20_000)]}), "x")
    with pytest.raises(InvalidRequest, match=r"its grammar has [\d,]+ bytes"):
        grammar.check(grammar.of_schema({"enum": [f"value{n}" for n in range(60_000)]}), "x")
    for depth in (60, 3000):
        deep: Any = {"type": "string"}
        for _ in range(depth):
            deep = {"type": "object", "properties": {"a": deep}}
        with pytest.raises(InvalidRequest, match="more than 100 levels"):
            grammar.of_contract(deep, "x")
    assert time.monotonic() - began < 2


def test_space_does_not_hide_a_call() -> None:
    bare = ToolCallFormat('{"name": "', '", "parameters": ', None, "}")
    tool_calls = calls(False, False, bare)
    assert not allows(tool_calls, '\n {"name": "Ann", "age": 3}') and allows(tool_calls, "\nAnn")


def test_a_clients_grammar_may_use_its_own_start() -> None:
    own = grammar.of_language('start: "<start>" start | /start./ // the start\n', "guided_grammar")
    lark = grammar.after_reasoning(own, ReasoningTags("<think>", "</think>"), begun=True)
    assert allows(lark, "Hm.</think><start><start>start!")
    assert not allows(lark, "Hm.</think><start>Hm.</think>start!")
