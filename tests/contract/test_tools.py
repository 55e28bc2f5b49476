"""Tools on a model whose template knows none: the same calls from every engine."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.contract.schemas import SCHEMAS, object_schema, sample_cases, validate
from tests.contract.test_structured_output import SEED
from tests.fleet import MODEL

ASK = [{"role": "user", "content": "What is the weather in Rome?"}]
CITY = object_schema(city={"type": "string", "maxLength": 12})


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "description": f"Do {name}.", "parameters": parameters}
    return {"type": "function", "function": function}


WEATHER, ADD = tool("get_weather", CITY), tool("add", SCHEMAS[2])


def ask(client: openai.OpenAI, stream: bool = False, **more: Any) -> tuple[str, list[Any], str]:
    """The text, the calls (name and arguments) and the reason of an answer."""
    body: dict[str, Any] = {"model": MODEL, "messages": ASK, "temperature": 0, "max_tokens": 200}
    if not stream:
        (choice,) = client.chat.completions.create(**body | more).choices
        calls = choice.message.tool_calls or []
        assert all(call.id.startswith("call_") and call.type == "function" for call in calls)
        named = [(call.function.name, call.function.arguments) for call in calls]
        return choice.message.content or "", named, choice.finish_reason
    return _read_stream(client, body | more)


def _read_stream(client: openai.OpenAI, asked: dict[str, Any]) -> tuple[str, list[Any], str]:
    text, reason, calls = "", "", []
    for chunk in client.chat.completions.create(stream=True, **asked):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for piece in choice.delta.tool_calls or []:
                if piece.index == len(calls):
                    # The first piece names the call, and has no arguments yet.
                    assert piece.id and piece.type == "function" and piece.function.name
                    calls.append([piece.function.name, ""])
                calls[piece.index][1] += piece.function.arguments
    return text, [tuple(call) for call in calls], reason


@pytest.mark.parametrize(("number", "seed"), sample_cases(SEED, 10))
def test_a_required_call_keeps_to_its_schema(number: int, seed: int, client: openai.OpenAI) -> None:
    more = {"temperature": 1.0, "seed": seed, "max_tokens": 500, "stream": seed % 2 == 1}
    text, calls, reason = ask(
        client, tools=[tool("note", SCHEMAS[number])], tool_choice="required", **more
    )
    assert (text, reason) == ("", "tool_calls")
    ((name, arguments),) = calls
    assert name == "note"
    validate(json.loads(arguments), SCHEMAS[number])


def test_a_named_tool_is_called(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "add"}}
    for stream in (False, True):
        text, calls, reason = ask(client, stream, tools=[WEATHER, ADD], tool_choice=named)
        assert (text, [name for name, _ in calls], reason) == ("", ["add"], "stop")


def test_a_tool_without_parameters_is_called_without_arguments(client: openai.OpenAI) -> None:
    function = {"name": "list_cities", "description": "List the known cities."}
    for parameters in (
        {},
        {"parameters": {}},
        {"parameters": {"type": "object", "properties": {}}},
    ):
        nothing = {"type": "function", "function": {**function, **parameters}}
        _, calls, _ = ask(client, tools=[nothing], tool_choice="required")
        assert calls == [("list_cities", "{}")]


def test_a_required_call_wins_over_a_format(client: openai.OpenAI) -> None:
    schema = {"name": "answer", "schema": object_schema(text={"type": "string"})}
    form = {"type": "json_schema", "json_schema": schema}
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        more = {"tools": [WEATHER], "tool_choice": choice, "response_format": form}
        _, ((name, arguments),), _ = ask(client, **more)
        assert name == "get_weather"
        validate(json.loads(arguments), CITY)


def test_streamed_and_plain_calls_are_the_same(client: openai.OpenAI) -> None:
    more = {"tools": [WEATHER, ADD], "tool_choice": "required"}
    assert ask(client, False, **more) == ask(client, True, **more)


def test_several_calls_if_asked_for(client: openai.OpenAI) -> None:
    more = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 300}
    _, calls, reason = ask(client, True, parallel_tool_calls=True, **more)
    assert len(calls) > 1 or reason == "tool_calls"
    for name, arguments in calls[:-1]:
        assert name == "get_weather"
        validate(json.loads(arguments), CITY)


def test_text_is_free_where_no_call_is_required(client: openai.OpenAI) -> None:
    for choice in ("auto", "none"):
        text, calls, reason = ask(client, tools=[WEATHER], tool_choice=choice, max_tokens=12)
        assert text or calls
        assert "<tool_call>" not in text and reason in ("length", "stop", "tool_calls")
    assert not calls, "none means none"


def test_the_answer_of_a_tool_is_read(real_client: openai.OpenAI) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
    }
    talk = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rome has 31 degrees."},
    ]
    text, _, _ = ask(real_client, messages=talk, tools=[WEATHER], tool_choice="none", max_tokens=40)
    assert "31" in text or "Rome" in text


def test_a_call_that_is_cut_off_says_so(client: openai.OpenAI) -> None:
    for stream in (False, True):
        more = {"tools": [ADD], "tool_choice": "required", "max_tokens": 12}
        text, _, reason = ask(client, stream, **more)
        assert (text, reason) == ("", "length")
