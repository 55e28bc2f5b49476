"""From a request to a prompt and a grammar, with templates of every kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.chat.templates import CHATML, HERMES, OPENER, STRICT, THINKER
from tests.chat.test_grammar import allows
from vllm_obtain.catalogue.chat_words import ChatWords
from vllm_obtain.chat.prepare import Prepared, prepare_chat
from vllm_obtain.chat.speaker import Speaker, _speaker
from vllm_obtain.chat.template import TemplateError
from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.protocol.parse import parse_chat

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("one", "two")
]


def talker(template: str | None, **words: Any) -> Speaker:
    return _speaker(ChatWords(template, **words), None)


def prepared(template: str | None, speaker: Speaker | None = None, **fields: Any) -> Prepared:
    asked = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    return prepare_chat(parse_chat(json.dumps(asked).encode()), speaker or talker(template))


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def test_a_plain_chat_is_written_and_nothing_is_looked_for() -> None:
    made = prepared(CHATML)
    assert made.task.prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (made.task.grammar, made.reading, made.task.bos) == (None, None, "")


def test_a_model_without_a_template_is_taken_for_chatml() -> None:
    assert prepared(None).task.prompt == prepared(CHATML).task.prompt
    assert talker(None).assumed and not talker(CHATML).assumed


def test_the_first_token_is_there_once() -> None:
    begins = "{{ bos_token }}" + CHATML
    for template in (CHATML, begins):
        task = prepared(None, talker(template, bos="<s>", adds_bos=True)).task
        assert isinstance(task.prompt, str)
        assert task.prompt.startswith("<s><|im") and task.bos == "<s>"
    assert prepared(None, talker(CHATML, bos="<s>")).task.prompt == prepared(CHATML).task.prompt


def test_tools_go_into_the_template_or_into_words() -> None:
    own, told = prepared(HERMES, tools=TOOLS), prepared(CHATML, tools=TOOLS)
    assert 'Tools: [{"type": "function"' in str(own.task.prompt)
    assert "<tools>" in str(told.task.prompt)
    for made in (own, told):
        assert made.reading is not None and made.reading.calls is not None
        assert allows(str(made.task.grammar), "Just text.")


@pytest.mark.parametrize(
    ("choice", "allowed", "text"),
    [
        ("auto", ["one", "two"], True),
        ("required", ["one", "two"], False),
        (named("two"), ["two"], False),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("one")]}},
            ["one"],
            True,
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [named("one")]},
            },
            ["one"],
            False,
        ),
    ],
)
def test_which_tools_may_be_called(choice: Any, allowed: list[str], text: bool) -> None:
    made = prepared(HERMES, tools=TOOLS, tool_choice=choice)
    grammar, spelled = str(made.task.grammar), talker(HERMES).calls
    for name in ("one", "two"):
        assert allows(grammar, spelled.write([(name, "{}")])) is (name in allowed)
        # All are told, so that the prompt stays the same from turn to turn.
        assert f'"name": "{name}"' in str(made.task.prompt)
    assert allows(grammar, "text") is text


def test_no_tool_is_told_where_none_may_be_called() -> None:
    made = prepared(HERMES, tools=TOOLS, tool_choice="none")
    assert made.task == prepared(HERMES).task.__class__(
        made.task.request, prepared(HERMES).task.prompt
    )


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
    made = prepared(template, tools=TOOLS, tool_choice="required", **more)
    both = talker(template).calls.write([("one", "{}"), ("two", "{}")])
    assert allows(str(made.task.grammar), both) is several


def test_reasoning_is_looked_for_where_the_model_reasons() -> None:
    thinking = prepared(THINKER)
    assert thinking.reading is not None and thinking.reading.marks is not None
    assert not thinking.reading.begun
    begun = prepared(OPENER)
    assert begun.reading is not None and begun.reading.begun
    switched_off = prepared(THINKER, reasoning_effort="none")
    assert switched_off.reading is None
    assert "</think>" in str(switched_off.task.prompt)
    shaped = prepared(THINKER, response_format={"type": "json_object"})
    assert allows(str(shaped.task.grammar), "<think>hm</think>\n{}")
    assert allows(str(shaped.task.grammar), "{}")


def test_effort_is_refused_where_the_template_has_none() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        prepared(CHATML, reasoning_effort="high")
    assert caught.value.param == "reasoning_effort"
    assert prepared(CHATML, reasoning_effort="none").task.prompt == prepared(CHATML).task.prompt


def test_variables_reach_the_template() -> None:
    template = CHATML + "{{ mood }}"
    made = prepared(template, chat_template_kwargs={"mood": "gay"})
    assert str(made.task.prompt).endswith("gay")


def test_the_last_message_can_be_gone_on_with() -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The sea is "}]
    made = prepared(CHATML, messages=talk, continue_final_message=True)
    assert str(made.task.prompt).endswith("<|im_start|>assistant\nThe sea is")
    with pytest.raises(InvalidRequest, match="exclude"):
        prepared(CHATML, messages=talk, continue_final_message=True, add_generation_prompt=True)
    silent = prepared(CHATML, add_generation_prompt=False)
    assert str(silent.task.prompt).endswith("Hi<|im_end|>\n")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('two in a row') }}", "refuses the conversation: two in a row"),
        ("{{ messages[7].content.x.y }}", "cannot write this conversation"),
        ("{{ ''.__class__.__mro__ }}", "cannot write this conversation"),
        ("{% for %}", "is broken"),
    ],
)
def test_a_template_that_fails_is_the_clients_error(template: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words) as caught:
        prepared(template)
    assert (caught.value.status, caught.value.code) == (400, "chat_template_error")


def test_what_templates_of_hugging_face_use() -> None:
    template = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{{ {'b': 'ä<', 'a': 1} | tojson }}{{ strftime_now('%Y') | length }}"
    )
    assert prepared(template).task.prompt == 'Hi{"b": "ä<", "a": 1}4'


@pytest.mark.parametrize("name", ["self", "begin_answer", "more", "args", ""])
def test_a_variable_may_have_any_name(name: str) -> None:
    made = prepared(CHATML, chat_template_kwargs={name: 1})
    assert made.task.prompt == prepared(CHATML).task.prompt


@pytest.mark.parametrize("text", ["", "  ", "im_end", "<|im_end|>", "assistant", "\n", "Hi"])
def test_going_on_does_not_depend_on_the_words(text: str) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]
    made = prepared(CHATML, messages=talk, continue_final_message=True)
    begun = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert made.task.prompt == begun + text.rstrip()


def test_calls_cannot_be_gone_on_with() -> None:
    call = {"id": "1", "function": {"name": "one", "arguments": "{}"}}
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(InvalidRequest, match="without calls"):
        prepared(HERMES, messages=talk, continue_final_message=True)


def test_tools_are_told_where_the_system_says_nothing() -> None:
    made = prepared(STRICT, tools=TOOLS)
    prompt = str(made.task.prompt)
    assert prompt.startswith("<turn>user\nYou can call functions.")
    assert prompt.endswith("\n\nHi</turn>")


def test_marks_that_engines_do_not_show_are_not_used() -> None:
    hidden = frozenset({"<tool_call>"})
    shown = talker(HERMES)
    assert shown.own_tools and not talker(HERMES, control=hidden).own_tools
    assert talker(THINKER).marks and not talker(THINKER, control=frozenset({"<think>"})).marks


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
    marked = talker(CHATML, control=frozenset({"<|im_end|>"}))
    with pytest.raises(InvalidRequest) as caught:
        prepared(None, marked, **fields)
    assert caught.value.param == param
