"""Messages as chat templates get them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from vllm_obtain.chat.chat_format import flatten
from vllm_obtain.protocol.engine_request import MARK
from vllm_obtain.protocol.messages import (
    AssistantMessage,
    CalledFunction,
    DeveloperMessage,
    ImagePart,
    ImageURL,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
    images_in,
)
from vllm_obtain.protocol.parsing import parse_chat


def test_roles_and_parts() -> None:
    messages: list[Message] = [
        SystemMessage("s"),
        DeveloperMessage("d"),
        UserMessage([TextPart("one"), TextPart("two")]),
        AssistantMessage("a"),
        AssistantMessage("a", name="n", reasoning="why"),
        AssistantMessage(refusal="no"),
        UserMessage("", name="n"),
        AssistantMessage(tool_calls=[ToolCall("c1", CalledFunction("f", '{"a": [1]}'))]),
        ToolMessage("done", "c1"),
    ]
    assert flatten(messages) == [
        {"role": "system", "content": "s"},
        {"role": "system", "content": "d"},
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "a", "name": "n", "reasoning_content": "why"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "", "name": "n"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "f", "arguments": {"a": [1]}},
                }
            ],
        },
        {"role": "tool", "content": "done", "tool_call_id": "c1"},
    ]


def test_a_moving_line_is_left_out_of_the_first_message_only() -> None:
    moving = "x-anthropic-billing-header: cc_version=1.2.3\nBe kind."
    assert flatten([SystemMessage(moving)])[0]["content"] == "Be kind."
    assert flatten([UserMessage("x"), SystemMessage(moving)])[1]["content"] == moving


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ({"a": [1]}, {"a": [1]}),
        ("", {}),
        (None, {}),
        ({}, {}),
        # Cut off by max_tokens, and sent back.
        ('{"a": [1', {"unparsed_arguments": '{"a": [1'}),
        ("[1]", {"unparsed_arguments": "[1]"}),
    ],
)
def test_arguments_of_earlier_calls(arguments: Any, expected: dict[str, Any]) -> None:
    message = AssistantMessage(tool_calls=[ToolCall("c", CalledFunction("f", arguments))])
    (call,) = flatten([UserMessage("x"), message])[1]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": expected}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": None, "audio": None, "function_call": None},
        {"role": "assistant", "content": None, "annotations": [{"type": "url_citation"}]},
        {"role": "tool", "tool_call_id": "c", "content": None},
        {"role": "tool", "tool_call_id": "c", "content": []},
    ],
)
def test_no_content_is_an_empty_text(message: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": "x"}, message]}
    request = parse_chat(json.dumps(body).encode())
    assert flatten(request.messages)[1]["content"] == ""


def test_marks_stand_for_images() -> None:
    image = ImagePart(ImageURL("data:"))
    parts = [TextPart("a"), TextPart("b"), image, TextPart("c"), image, image, TextPart("d")]
    assert flatten([UserMessage(parts)])[0]["content"] == f"a\nb{MARK}c{MARK}{MARK}d"


def test_images_are_found_with_their_fields() -> None:
    image, placed = ImagePart(ImageURL("data:")), ImagePart.placed("data:,", "images[0]")
    messages = [UserMessage("x"), UserMessage([TextPart("x"), image]), UserMessage([placed])]
    found = images_in(messages)
    assert found == [(image, "messages[1].content[1].image_url"), (placed, "images[0]")]
    # The place is for errors only: it is no part of what is asked.
    assert placed == ImagePart(ImageURL("data:,"))
    assert b"where" not in msgspec.json.encode(placed)
