"""From a request to a prompt and a grammar, with templates of every kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.chat.templates import CHATML, HERMES, OPENER, STRICT, THINKER
from tests.chat.test_grammar import allows
from tests.engine_requests import params
from vllm_obtain.chat.chat_format import ChatFormat, derive
from vllm_obtain.chat.chat_template import TemplateError
from vllm_obtain.chat.prepare import PreparedRequest, prepare_chat
from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.models.chat_tokens import ChatTokens
from vllm_obtain.protocol.parsing import parse_chat

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("one", "two")
]


def chat_format_of(template: str | None, **words: Any) -> ChatFormat:
    return derive(ChatTokens(template, **words), None)


def prepare(
    template: str | None, chat_format: ChatFormat | None = None, **fields: Any
) -> PreparedRequest:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    request = parse_chat(json.dumps(body).encode())
    return prepare_chat(request, params(request), chat_format or chat_format_of(template))


def named_choice(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def test_a_plain_chat_is_written_and_nothing_is_looked_for() -> None:
    request = prepare(CHATML)
    assert request.request.prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (request.request.grammar, request.parser, request.request.bos) == (None, None, "")


def test_a_model_without_a_template_is_taken_for_chatml() -> None:
    assert prepare(None).request.prompt == prepare(CHATML).request.prompt
    assert chat_format_of(None).assumed and not chat_format_of(CHATML).assumed


def test_the_first_token_is_there_once() -> None:
    begins = "{{ bos_token }}" + CHATML
    for template in (CHATML, begins):
        task = prepare(None, chat_format_of(template, bos="<s>", adds_bos=True)).request
        assert isinstance(task.prompt, str)
        assert task.prompt.startswith("<s><|im") and task.bos == "<s>"
    assert (
        prepare(None, chat_format_of(CHATML, bos="<s>")).request.prompt
        == prepare(CHATML).request.prompt
    )


def test_tools_go_into_the_template_or_into_words() -> None:
    own, told = prepare(HERMES, tools=TOOLS), prepare(CHATML, tools=TOOLS)
    assert 'Tools: [{"type": "function"' in str(own.request.prompt)
    assert "<tools>" in str(told.request.prompt)
    for made in (own, told):
        assert made.parser is not None and made.parser.calls is not None
        assert allows(str(made.request.grammar), "Just text.")


@pytest.mark.parametrize(
    ("choice", "allowed", "text"),
    [
        ("auto", ["one", "two"], True),
        ("required", ["one", "two"], False),
        (named_choice("two"), ["two"], False),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [named_choice("one")]},
            },
            ["one"],
            True,
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [named_choice("one")]},
            },
            ["one"],
            False,
        ),
    ],
)
def test_which_tools_may_be_called(choice: Any, allowed: list[str], text: bool) -> None:
    request = prepare(HERMES, tools=TOOLS, tool_choice=choice)
    grammar, spelled = str(request.request.grammar), chat_format_of(HERMES).tool_call_format
    for name in ("one", "two"):
        assert allows(grammar, spelled.write([(name, "{}")])) is (name in allowed)
        # All are told, so that the prompt stays the same from turn to turn.
        assert f'"name": "{name}"' in str(request.request.prompt)
    assert allows(grammar, "text") is text


def test_no_tool_is_told_where_none_may_be_called() -> None:
    request = prepare(HERMES, tools=TOOLS, tool_choice="none")
    assert request.request == prepare(HERMES).request


@pytest.mark.parametrize(
    ("template", "parallel", "several"),
    [
        (HERMES, None, True),
        (HERMES, False, False),
        (CHATML, None, False),
        (CHATML, True, True),
    ],
)
def test_how_many_calls(template: str, parallel: bool | None, several: bool) -> None:
    more = {} if parallel is None else {"parallel_tool_calls": parallel}
    request = prepare(template, tools=TOOLS, tool_choice="required", **more)
    both = chat_format_of(template).tool_call_format.write([("one", "{}"), ("two", "{}")])
    assert allows(str(request.request.grammar), both) is several


def test_reasoning_is_looked_for_where_the_model_reasons() -> None:
    thinking = prepare(THINKER)
    assert thinking.parser is not None and thinking.parser.marks is not None
    assert not thinking.parser.begun
    begun = prepare(OPENER)
    assert begun.parser is not None and begun.parser.begun
    switched_off = prepare(THINKER, reasoning_effort="none")
    assert switched_off.parser is None
    assert "</think>" in str(switched_off.request.prompt)
    shaped = prepare(THINKER, response_format={"type": "json_object"})
    assert allows(str(shaped.request.grammar), "<think>hm</think>\n{}")
    assert allows(str(shaped.request.grammar), "{}")


def test_effort_is_refused_where_the_template_has_none() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        prepare(CHATML, reasoning_effort="high")
    assert caught.value.param == "reasoning_effort"
    assert prepare(CHATML, reasoning_effort="none").request.prompt == prepare(CHATML).request.prompt


def test_variables_reach_the_template() -> None:
    template = CHATML + "{{ mood }}"
    request = prepare(template, chat_template_kwargs={"mood": "gay"})
    assert str(request.request.prompt).endswith("gay")


def test_the_last_message_can_be_gone_on_with() -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The sea is "}]
    request = prepare(CHATML, messages=talk, continue_final_message=True)
    assert str(request.request.prompt).endswith("<|im_start|>assistant\nThe sea is")
    with pytest.raises(InvalidRequest, match="mutually exclusive"):
        prepare(CHATML, messages=talk, continue_final_message=True, add_generation_prompt=True)
    silent = prepare(CHATML, add_generation_prompt=False)
    assert str(silent.request.prompt).endswith("Hi<|im_end|>\n")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('two in a row') }}", "rejects the messages: two in a row"),
        ("{{ messages[7].content.x.y }}", "failed on these messages"),
        ("{{ ''.__class__.__mro__ }}", "failed on these messages"),
        ("{% for %}", "is broken"),
    ],
)
def test_a_template_that_fails_is_the_clients_error(template: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words) as caught:
        prepare(template)
    assert (caught.value.status, caught.value.code) == (400, "chat_template_error")


def test_what_templates_of_hugging_face_use() -> None:
    template = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{{ {'b': 'ä<', 'a': 1} | tojson }}{{ strftime_now('%Y') | length }}"
    )
    assert prepare(template).request.prompt == 'Hi{"b": "ä<", "a": 1}4'


@pytest.mark.parametrize("name", ["self", "template_kwargs", "args", ""])
def test_a_variable_may_have_any_name(name: str) -> None:
    request = prepare(CHATML, chat_template_kwargs={name: 1})
    assert request.request.prompt == prepare(CHATML).request.prompt


@pytest.mark.parametrize("text", ["", "  ", "im_end", "<|im_end|>", "assistant", "\n", "Hi"])
def test_going_on_does_not_depend_on_the_words(text: str) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]
    request = prepare(CHATML, messages=talk, continue_final_message=True)
    begun = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert request.request.prompt == begun + text.rstrip()


def test_calls_cannot_be_gone_on_with() -> None:
    call = {"id": "1", "function": {"name": "one", "arguments": "{}"}}
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(InvalidRequest, match="without tool calls"):
        prepare(HERMES, messages=talk, continue_final_message=True)


def test_tools_are_told_where_the_system_says_nothing() -> None:
    request = prepare(STRICT, tools=TOOLS)
    prompt = str(request.request.prompt)
    assert prompt.startswith("<turn>user\nYou can call functions.")
    assert prompt.endswith("\n\nHi</turn>")


def test_marks_that_engines_do_not_show_are_not_used() -> None:
    hidden = frozenset({"<tool_call>"})
    shown = chat_format_of(HERMES)
    assert shown.has_tool_template and not chat_format_of(HERMES, control=hidden).has_tool_template
    assert (
        chat_format_of(THINKER).marks
        and not chat_format_of(THINKER, control=frozenset({"<think>"})).marks
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_choice": ["<|im_end|>"]}, "guided_choice"),
        ({"guided_regex": "a<\\|im_end\\|>|<|im_end|>"}, "guided_regex"),
        (
            {
                "tools": [
                    TOOLS[0] | {"function": {"name": "f", "parameters": {"enum": ["<|im_end|>"]}}}
                ]
            },
            "tools",
        ),
        (
            {"tools": [TOOLS[0] | {"function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools",
        ),
    ],
)
def test_what_spells_a_mark_or_is_no_object_is_refused(fields: Any, param: str) -> None:
    marked = chat_format_of(CHATML, control=frozenset({"<|im_end|>"}))
    with pytest.raises(InvalidRequest) as caught:
        prepare(None, marked, **fields)
    assert caught.value.param == param
