"""Ollama's messages as OpenAI has them."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
import pytest

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.gateway.ollama import request_types
from vllm_obtain.gateway.ollama.messages import conversation
from vllm_obtain.protocol.messages import AssistantMessage, Message, ToolMessage, UserMessage

PNG = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()


def translate_messages(*messages: dict[str, Any]) -> list[Message]:
    return conversation(msgspec.convert(messages, list[request_types.Message]))


def call(name: str, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": {"city": "Ulm"}}, **more}


def test_roles_are_read_in_any_case() -> None:
    roles = ["system", "Developer", "USER", "assistant"]
    found = translate_messages(*({"role": role, "content": "x"} for role in roles))
    assert [type(message).__name__.removesuffix("Message").lower() for message in found] == [
        role.lower() for role in roles
    ]


def test_thinking_is_passed_on() -> None:
    (found,) = translate_messages({"role": "assistant", "content": "4", "thinking": "2 and 2"})
    assert isinstance(found, AssistantMessage)
    assert (found.content, found.reasoning_content) == ("4", "2 and 2")


def test_calls_get_ids_and_arguments_as_text() -> None:
    (found,) = translate_messages(
        {"role": "assistant", "tool_calls": [call("a"), call("b", id="mine")]}
    )
    assert isinstance(found, AssistantMessage) and found.tool_calls is not None
    assert found.content is None
    assert [made.id for made in found.tool_calls] == ["call_0_0", "mine"]
    assert found.tool_calls[0].function.arguments == '{"city":"Ulm"}'


def test_answers_of_tools_find_their_calls() -> None:
    found = translate_messages(
        {
            "role": "assistant",
            "tool_calls": [call("a"), call("b", id="mine"), call("a"), call("c")],
        },
        {"role": "tool", "content": "1", "tool_name": "b"},
        {"role": "tool", "content": "2", "tool_name": "a"},
        {"role": "tool", "content": "3"},
        {"role": "tool", "content": "4", "tool_call_id": "call_0_3"},
        {"role": "tool", "content": "5", "tool_name": "a"},
    )
    answers = [message for message in found if isinstance(message, ToolMessage)]
    assert [answer.tool_call_id for answer in answers] == [
        "mine",
        "call_0_0",
        "call_0_2",
        "call_0_3",
        "call_5",
    ]
    assert answers[0].name == "b"


def test_messages_of_older_clients_have_a_name_and_arguments_as_text() -> None:
    calls = [
        {"function": {"name": "a", "arguments": '{"x": 1}'}},
        {"function": {"name": "b", "arguments": None}},
    ]
    assistant, tool, user = translate_messages(
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "1", "name": "b"},
        {"role": "user", "content": "x", "name": "Ann"},
    )
    assert isinstance(assistant, AssistantMessage) and assistant.tool_calls is not None
    arguments = [made.function.arguments for made in assistant.tool_calls]
    assert arguments == ['{"x": 1}', "{}"]
    assert isinstance(tool, ToolMessage)
    assert (tool.name, tool.tool_call_id) == ("b", "call_0_1")
    assert isinstance(user, UserMessage)


def test_images_become_parts() -> None:
    (found,) = translate_messages({"role": "user", "content": "What is it?", "images": [PNG]})
    assert isinstance(found, UserMessage)
    assert msgspec.to_builtins(found.content) == [
        {"type": "text", "text": "What is it?"},
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "auto"},
        },
    ]


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"role": "control", "content": "x"}, "role"),
        ({"role": "user", "thinking": "hm"}, "thinking"),
        ({"role": "user", "tool_calls": [call("a")]}, "tool_calls"),
        ({"role": "system", "tool_call_id": "1"}, "tool_call_id"),
        ({"role": "user", "images": [PNG, "/tmp/cat.png"]}, "images[1]"),
        ({"role": "user", "images": ["bm8gaW1hZ2UgYXQgYWxs"]}, "images[0]"),
    ],
)
def test_what_a_message_cannot_have_is_refused_by_name(message: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        translate_messages({"role": "user", "content": "x"}, message)
    assert raised.value.param == f"messages[1].{named}"
