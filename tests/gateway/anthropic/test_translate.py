"""What Anthropic's requests come to as chat requests, and which are refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.gateway.anthropic.request_types import parse_count, parse_messages
from vllm_obtain.gateway.anthropic.translate import Translated, translate
from vllm_obtain.protocol.requests import ChatRequest

USER = {"role": "user", "content": "hi"}
TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
PNG = {"type": "base64", "media_type": "image/png", "data": "AA=="}
CACHE = {"type": "ephemeral", "ttl": "1h", "scope": "global"}
REMINDER = "<system-reminder>\nBe quick.\n</system-reminder>"


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def use(number: int, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"t{number}", "name": "add", "input": arguments}


def result(number: int, content: Any = "3", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"t{number}", "content": content, **more}


def translate_body(thinks: bool = False, **body: Any) -> Translated:
    whole = {"model": "m", "max_tokens": 9, "messages": [USER], **body}
    return translate(parse_messages(json.dumps(whole).encode()), thinks)


def chat_fields(**body: Any) -> dict[str, Any]:
    """The chat request as JSON, without what is not set."""
    return sparse(translate_body(**body).request)


def sparse(request: ChatRequest) -> Any:
    return drop(msgspec.to_builtins(request))


def drop(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: drop(one) for name, one in value.items() if one is not None}
    return [drop(one) for one in value] if isinstance(value, list) else value


def chat_messages(*turns: dict[str, Any], **body: Any) -> Any:
    return chat_fields(messages=list(turns), **body)["messages"]


def turn(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def test_a_plain_request_says_just_what_was_said() -> None:
    assert chat_fields() == {"model": "m", "max_tokens": 9, "messages": [USER]}


def test_sampling_and_labels_have_other_names() -> None:
    assert chat_fields(
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stop_sequences=["END"],
        stream=True,
        metadata={"user_id": "me"},
        service_tier="auto",
        betas=["interleaved-thinking-2025-05-14"],
        cache_control=CACHE,
        thinking={"type": "adaptive", "display": "omitted"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    ) == {
        "model": "m",
        "max_tokens": 9,
        "messages": [USER],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "stop": ["END"],
        "stream": True,
        "user": "me",
    }


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ("Be brief.", "Be brief."),
        ([text("Be brief.", cache_control=CACHE), text("Be kind.")], "Be brief.\nBe kind."),
        ([text("x-anthropic-billing-header: cch=1;"), text("Be brief.")], "Be brief."),
        ("x-anthropic-billing-header: cch=1;\nBe brief.", "Be brief."),
    ],
)
def test_the_system_prompt_comes_first_without_what_moves(system: Any, said: str) -> None:
    assert chat_messages(USER, system=system) == [{"role": "system", "content": said}, USER]


@pytest.mark.parametrize("system", ["", [], "x-anthropic-billing-header: cch=1;"])
def test_a_system_prompt_of_nothing_is_none(system: Any) -> None:
    assert chat_messages(USER, system=system) == [USER]


def test_turns_of_one_role_are_one_message() -> None:
    assistant = turn("assistant", text("A"), text("B", citations=[]))
    messages = chat_messages(USER, USER, assistant, {"role": "assistant", "content": "C"}, USER)
    parts = [text("hi"), text("hi")]
    assert messages == [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "ABC"},
        USER,
    ]


def test_images_and_documents_become_parts() -> None:
    document = {"type": "text", "media_type": "text/plain", "data": "Once."}
    messages = chat_messages(
        turn(
            "user",
            {"type": "image", "source": PNG, "cache_control": CACHE},
            {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
            {"type": "document", "source": document, "title": "Tale", "context": "Old."},
        )
    )
    urls = ["data:image/png;base64,AA==", "https://a/b.png"]
    images = [{"type": "image_url", "image_url": {"url": url, "detail": "auto"}} for url in urls]
    assert messages == [{"role": "user", "content": [*images, text("Tale\nOld.\nOnce.")]}]


def test_calls_and_their_results() -> None:
    thinking = {"type": "thinking", "thinking": "Two calls.", "signature": "s"}
    redacted = {"type": "redacted_thinking", "data": "xyz"}
    messages = chat_messages(
        USER,
        turn("assistant", thinking, redacted, text("Well."), use(1, a=1), use(2)),
        turn("user", result(1), text("And?"), result(2, [text("no"), text("way")], is_error=True)),
        tools=[TOOL],
    )
    calls = [
        {"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}},
        {"id": "t2", "type": "function", "function": {"name": "add", "arguments": "{}"}},
    ]
    answer = {"role": "assistant", "content": "Well.", "tool_calls": calls}
    assert messages == [
        USER,
        {**answer, "reasoning_content": "Two calls."},
        {"role": "tool", "content": "3", "tool_call_id": "t1", "name": "add"},
        {
            "role": "tool",
            "content": [text("Error:"), text("no"), text("way")],
            "tool_call_id": "t2",
            "name": "add",
        },
        {"role": "user", "content": "And?"},
    ]


@pytest.mark.parametrize(
    ("given", "content"),
    [
        (result(1, is_error=True), [text("Error:"), text("3")]),
        (result(1, "<tool_use_error>No.", is_error=True), "<tool_use_error>No."),
        (result(1, None), ""),
        (result(1, [], is_error=True), "Error:"),
        (
            result(1, [{"type": "tool_reference", "tool_name": "sub"}]),
            "The tool 'sub' is available.",
        ),
    ],
)
def test_a_failed_tool_says_so_in_words(given: dict[str, Any], content: Any) -> None:
    messages = chat_messages(USER, turn("assistant", use(1)), turn("user", given))
    assert messages[-1]["content"] == content


def test_instructions_in_the_course_stay_where_they_were() -> None:
    system = {"role": "system", "content": [text("Be quick.")]}
    messages = chat_messages(
        USER, system, turn("assistant", use(1)), turn("user", result(1)), system
    )
    assert messages[0] == {"role": "user", "content": [text("hi"), text(REMINDER)]}
    assert messages[-2]["role"] == "tool"
    assert messages[-1] == {"role": "user", "content": REMINDER}


def test_instructions_before_everything_join_the_system_prompt() -> None:
    turns = [{"role": "system", "content": "Be quick."}, USER]
    assert chat_messages(*turns) == [{"role": "system", "content": "Be quick."}, USER]
    both = {"role": "system", "content": "You.\nBe quick."}
    assert chat_messages(*turns, system="You.") == [both, USER]
    empty = {"role": "system", "content": [], "output_config": {"effort": "high"}}
    assert chat_messages(empty, USER, system="You.") == [
        {"role": "system", "content": "You."},
        USER,
    ]


def test_an_answer_that_has_begun_goes_on() -> None:
    request = chat_fields(messages=[USER, {"role": "assistant", "content": "The ("}])
    assert request["continue_final_message"] is True
    assert "continue_final_message" not in chat_fields()


def test_tools_are_functions() -> None:
    labels = {"type": "custom", "cache_control": CACHE, "eager_input_streaming": True}
    request = chat_fields(tools=[{**TOOL, **labels, "strict": True, "defer_loading": True}])
    function = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
    assert request["tools"] == [{"type": "function", "function": {**function, "strict": True}}]
    assert "tool_choice" not in request


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "add"},
            {"tool_choice": {"type": "function", "function": {"name": "add"}}},
        ),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
    ],
)
def test_a_choice_of_tools(choice: dict[str, Any], wanted: dict[str, Any]) -> None:
    request = chat_fields(tools=[TOOL], tool_choice=choice)
    names = ("tool_choice", "parallel_tool_calls")
    assert {name: request[name] for name in names if name in request} == wanted


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_an_answer_of_a_schema(field: str) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "array"}}
    request = chat_fields(**{field: {"format": wanted} if field == "output_config" else wanted})
    named = {"name": "answer", "schema": {"type": "array"}, "strict": True}
    assert request["response_format"] == {"type": "json_schema", "json_schema": named}


ENABLED = {"type": "enabled", "budget_tokens": 2048}
HIGH = {"effort": "high"}


@pytest.mark.parametrize(
    ("body", "effort", "unheard"),
    [
        ({}, None, ()),
        ({"thinking": {"type": "disabled"}}, "none", ()),
        ({"thinking": {"type": "adaptive"}}, None, ()),
        ({"thinking": ENABLED}, "low", ("thinking.budget_tokens",)),
        ({"thinking": {**ENABLED, "budget_tokens": 10_000}}, "medium", ("thinking.budget_tokens",)),
        ({"thinking": {**ENABLED, "budget_tokens": 31_999}}, "high", ("thinking.budget_tokens",)),
        ({"output_config": HIGH}, "high", ("output_config.effort",)),
        ({"output_config": {"effort": "max"}}, "xhigh", ("output_config.effort",)),
        (
            {"thinking": ENABLED, "output_config": HIGH},
            "high",
            ("thinking.budget_tokens", "output_config.effort"),
        ),
        (
            {
                "messages": [USER, {"role": "system", "content": [], "output_config": HIGH}],
                "output_config": {"effort": "low"},
            },
            "high",
            ("output_config.effort",),
        ),
    ],
)
def test_how_hard_to_think_is_a_wish(
    body: dict[str, Any], effort: str | None, unheard: tuple[str, ...]
) -> None:
    able, unable = translate_body(thinks=True, **body), translate_body(thinks=False, **body)
    assert (able.request.reasoning_effort, able.ignored) == (effort, ())
    assert (unable.request.reasoning_effort, unable.ignored) == (None, unheard)


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ("all", ["one", "two", "three"]),
        ({"type": "thinking_turns", "value": 1}, [None, "two", "three"]),
        ({"type": "thinking_turns", "value": 2}, ["one", "two", "three"]),
        (None, [None, "two", "three"]),
    ],
)
def test_old_thoughts_are_cleared_by_turns(keep: Any, left: list[str | None]) -> None:
    def thought(words: str, *more: Any) -> dict[str, Any]:
        return turn("assistant", {"type": "thinking", "thinking": words}, *more)

    edit = {"type": "clear_thinking_20251015", **({"keep": keep} if keep else {})}
    messages = chat_messages(
        USER,
        thought("one", text("A")),
        USER,
        thought("two", use(1)),  # and what follows the result is still the same turn
        turn("user", result(1)),
        thought("three", text("B")),
        USER,
        context_management={"edits": [edit]},
    )
    thoughts = [m.get("reasoning_content") for m in messages if m["role"] == "assistant"]
    assert thoughts == left


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [turn("user", *blocks)]}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "bob", "content": "x"}]}, r"messages\[0\].role.*user, assistant"),
        (user(), r"messages\[0\].content"),
        (user({"type": "video"}), r"messages\[0\].content\[0\].type.*tool_result"),
        (user(use(1)), r"messages\[0\].content\[0\].type"),
        (user(text("x", mood=1)), r"messages\[0\].content\[0\].mood"),
        (
            user({"type": "image", "source": {"type": "file", "file_id": "f"}}),
            r"messages\[0\].content\[0\].source.*base64",
        ),
        (user(result(7)), r"messages\[0\].content\[0\].tool_use_id"),
        ({"messages": [USER, turn("assistant", use(1))]}, "messages"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "between_tools"}}, "thinking.*adaptive"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice.name"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, r"tools\[0\].type.*custom"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, r"tools\[0\].input_examples"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"speed": "fast"}, "speed"),
        ({"metadata": {"mood": "x"}}, "metadata.mood"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management.*clear_thinking",
        ),
        ({"no_such_thing": 1}, "no_such_thing"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        translate_body(**body)


def test_messages_that_say_nothing_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="they are empty"):
        chat_fields(messages=[turn("system", text(""))])


def test_a_count_needs_no_limit_and_knows_no_sampling() -> None:
    asked = parse_count(json.dumps({"model": "m", "messages": [USER], "tools": [TOOL]}).encode())
    request = translate(asked, False).request
    assert (request.max_tokens, len(request.tools or ())) == (None, 1)
    with pytest.raises(InvalidRequest, match="max_tokens"):
        parse_count(json.dumps({"model": "m", "messages": [USER], "max_tokens": 1}).encode())
