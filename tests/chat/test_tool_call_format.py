"""How models spell tool calls, found out from their templates."""

from __future__ import annotations

import pytest

from tests.chat.templates import CHATML, FRAMED, HERMES, LLAMA, MARKUP, NUMBERED, THINKER
from vllm_obtain.chat import tool_prompt
from vllm_obtain.chat.chat_template import ChatTemplate
from vllm_obtain.chat.tool_call_format import ToolCallFormat, call_format, takes_tools

TAGGED = ToolCallFormat(
    begin='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    between='}\n</tool_call>\n<tool_call>\n{"name": "',
    end="}\n</tool_call>",
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (HERMES, TAGGED),
        (THINKER, TAGGED),
        (FRAMED, ToolCallFormat("<calls><call>", "<sep>", "</call><call>", "</call></calls>")),
    ],
)
def test_the_form_is_what_the_template_writes(template: str, expected: ToolCallFormat) -> None:
    made = ChatTemplate(template)
    assert takes_tools(made)
    assert call_format(made) == expected
    assert expected.is_marked


def test_a_call_without_a_mark_is_told_by_its_beginning() -> None:
    found = call_format(ChatTemplate(LLAMA, "<s>"))
    assert found == ToolCallFormat('{"name": "', '", "parameters": ', None, "}")
    assert found.mark == '{"name": "' and not found.is_marked


@pytest.mark.parametrize("template", [MARKUP, CHATML])
def test_other_forms_are_left_alone(template: str) -> None:
    assert call_format(ChatTemplate(template)) is None


def test_which_templates_know_tools() -> None:
    assert not takes_tools(ChatTemplate(CHATML))
    assert takes_tools(ChatTemplate(MARKUP))
    refusing = "{% if tools %}{{ raise_exception('no tools') }}{% endif %}"
    assert not takes_tools(ChatTemplate(refusing))


def test_marks() -> None:
    assert TAGGED.mark == "<tool_call>"
    assert ToolCallFormat("[TOOL_CALLS]", "{", "", "").mark == "[TOOL_CALLS]"
    bare = ToolCallFormat('{"name": "', '", "parameters": ', "", "}")
    assert (bare.mark, bare.is_marked) == ('{"name": "', False)


def test_tools_are_described_to_models_that_know_none() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": "ä"}}}
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "Well.", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
    ]
    messages = tool_prompt.with_tool_prompt(talk, [tool])
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"].startswith("Be kind.\n\n")
    assert '{"name": "f", "parameters": {"type": "object"}}' in messages[0]["content"]
    spelled = '<tool_call>\n{"name": "f", "arguments": {"a": "ä"}}\n</tool_call>'
    assert messages[2]["content"] == f"Well.\n{spelled}"
    assert messages[3]["content"] == "<tool_response>\n42\n</tool_response>"
    assert tool_prompt.with_tool_prompt(talk[1:], [tool])[0]["role"] == "system"
    assert tool_prompt.with_tool_prompt(talk[1:2], []) == talk[1:2]


def test_numbered_calls_are_made_one_at_a_time() -> None:
    found = call_format(ChatTemplate(NUMBERED))
    assert found is not None and found.between is None
    assert (found.mark, found.end) == ("<action>", "}]</action>")


def test_what_tools_came_to_is_one_turn() -> None:
    results = [{"role": "tool", "content": text, "tool_call_id": "1"} for text in "ab"]
    user = {"role": "user", "content": "x"}
    messages = tool_prompt.with_tool_prompt(
        [user, {"role": "assistant", "content": "y"}, *results, user], []
    )
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    spelled = "<tool_response>\n{}\n</tool_response>\n"
    assert messages[2]["content"] == spelled.format("a") + spelled.format("b") + "x"
    assert [message["role"] for message in tool_prompt.with_tool_prompt([user, user], [])] == [
        "user"
    ] * 2
