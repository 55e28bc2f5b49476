from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.gateway.responses.encrypted_reasoning import seal
from vllm_obtain.gateway.responses.parse import parse
from vllm_obtain.gateway.responses.translate import to_chat, to_responses_error
from vllm_obtain.protocol.parsing import parse_chat
from vllm_obtain.protocol.requests import ChatRequest

CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "2"}
THOUGHT = {"type": "reasoning", "id": "rs", "summary": []}


def chat(**fields: Any) -> ChatRequest:
    asked, items = parse(json.dumps({"input": "x", **fields}).encode())
    return to_chat(asked, items)  # type: ignore[arg-type]  # no references in these


def messages(*items: Any, **fields: Any) -> Any:
    made = chat(input=list(items), **fields).messages
    return _without_null(msgspec.to_builtins(made))


def _without_null(value: Any) -> Any:
    """What says anything of a message."""
    if isinstance(value, dict):
        return {name: _without_null(each) for name, each in value.items() if each is not None}
    return [_without_null(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({}, {}),
        ({"model": "m", "stream": True}, {"model": "m", "stream": True}),
        ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "top_p": 0.5}),
        (
            {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
            {"logprobs": True, "top_logprobs": 2},
        ),
        ({"text": {"format": {"type": "text"}}}, {"response_format": {"type": "text"}}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {
                "text": {
                    "format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}
                }
            },
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {}, "strict": True},
                }
            },
        ),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": {"a": 1}, "strict": True}]},
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"a": 1}, "strict": True},
                    }
                ]
            },
        ),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"tool_choice": {"type": "function", "name": "f"}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": "f"}],
                }
            },
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "required",
                        "tools": [{"type": "function", "function": {"name": "f"}}],
                    },
                }
            },
        ),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        (
            {
                "user": "u",
                "safety_identifier": "s",
                "prompt_cache_key": "k",
                "metadata": {"a": "b"},
            },
            {
                "user": "u",
                "safety_identifier": "s",
                "prompt_cache_key": "k",
                "metadata": {"a": "b"},
            },
        ),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            {"stream": True, "stream_options": {"include_obfuscation": True}},
        ),
    ],
)
def test_a_request_means_the_same_as_this_chat_request(
    fields: dict[str, Any], same: dict[str, Any]
) -> None:
    user = {"role": "user", "content": "x"}
    assert chat(**fields) == parse_chat(json.dumps({"messages": [user], **same}).encode())


def test_messages_of_all_roles() -> None:
    assert messages(
        {"role": "developer", "content": "d"},
        {"role": "system", "content": [{"type": "input_text", "text": "s"}]},
        {"role": "user", "content": [{"type": "input_text", "text": t} for t in "ab"]},
        {"role": "assistant", "content": [{"type": "output_text", "text": t} for t in "cd"]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        instructions="first",
    ) == [
        {"role": "system", "content": "first"},
        {"role": "developer", "content": "d"},
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]},
        {"role": "assistant", "content": "cd"},
        {"role": "assistant", "refusal": "no"},
    ]


def test_images() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"}
    assert messages({"role": "user", "content": [{"type": "input_text", "text": "?"}, image]}) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "?"},
                {"type": "image_url", "image_url": {"url": image["image_url"], "detail": "low"}},
            ],
        }
    ]
    with pytest.raises(UnsupportedParameter, match="data URL"):
        messages({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]})
    with pytest.raises(InvalidRequest, match="image_url"):
        messages({"role": "user", "content": [{"type": "input_image"}]})


def test_reasoning_text_and_calls_are_one_turn_and_their_results_follow() -> None:
    second = {**CALL, "call_id": "c2", "name": "sub"}
    parts = [{"type": "input_text", "text": "3"}]
    turn = {
        "role": "assistant",
        "content": "Well.",
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": number, "type": "function", "function": {"name": name, "arguments": '{"a": 1}'}}
            for number, name in (("c1", "add"), ("c2", "sub"))
        ],
    }
    assert messages(
        {"role": "user", "content": "x"},
        {**THOUGHT, "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"role": "assistant", "content": "Well."},
        CALL,
        second,
        RESULT,
        {"type": "function_call_output", "call_id": "c2", "output": parts},
        CALL,
        {"role": "assistant", "content": "Done."},
    ) == [
        {"role": "user", "content": "x"},
        turn,
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
        {"role": "tool", "content": "3", "tool_call_id": "c2"},
        {"role": "assistant", "tool_calls": turn["tool_calls"][:1]},  # type: ignore[index]
        {"role": "assistant", "content": "Done."},
    ]


@pytest.mark.parametrize(
    "told",
    [
        {"content": [{"type": "reasoning_text", "text": "hm"}]},
        {"summary": [{"type": "summary_text", "text": "hm"}]},
        {"summary": [], "encrypted_content": seal("hm"), "content": None},
    ],
)
def test_reasoning_is_sent_back_in_any_of_its_forms(told: dict[str, Any]) -> None:
    assert messages({"role": "user", "content": "x"}, {**THOUGHT, **told}) == [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
    ]


@pytest.mark.parametrize("foreign", ["gAAAAABo", "vllm-obtain.%%%", "vllm-obtain.gIA="])
def test_reasoning_that_another_service_sealed_is_refused(foreign: str) -> None:
    with pytest.raises(InvalidRequest, match="created by another service") as caught:
        messages({**THOUGHT, "encrypted_content": foreign})
    assert caught.value.param == "input"


def test_a_result_without_its_call_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"No tool call found .* 'c1'") as caught:
        messages({"role": "user", "content": "x"}, RESULT)
    assert caught.value.param == "input"


def test_nothing_to_answer_is_refused() -> None:
    for nothing in (None, []):
        with pytest.raises(InvalidRequest) as caught:
            chat(input=nothing)
        assert caught.value.code == "missing_required_parameter"
    assert messages(instructions="Say hi.") == [{"role": "system", "content": "Say hi."}]


@pytest.mark.parametrize(
    ("param", "told"),
    [
        ("messages", "input"),
        ("messages[3].content[1]", "input"),
        ("max_completion_tokens", "max_output_tokens"),
        ("response_format", "text.format"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("reasoning_effort", "reasoning.effort"),
        ("tools[2].function.parameters", "tools[2].parameters"),
        ("tool_choice.function.name", "tool_choice.name"),
        ("logprobs", "include"),
        ("temperature", "temperature"),
    ],
)
def test_errors_speak_of_the_fields_that_the_client_sent(param: str, told: str) -> None:
    error = to_responses_error(UnsupportedParameter(param, "This engine cannot."))
    assert error.param == told
    assert error.message == f"Unsupported parameter: '{told}'. This engine cannot."
