from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.gateway.responses.items import (
    FunctionCallOutput,
    InputImage,
    ItemReference,
    Message,
)
from vllm_obtain.gateway.responses.parse import parse


def body(**fields: Any) -> bytes:
    return json.dumps({"input": "x", **fields}).encode()


def item(**fields: Any) -> bytes:
    return body(input=[fields])


def refusal(raw: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(raw)
    return caught.value


@pytest.mark.parametrize(
    ("raw", "param", "says"),
    [
        (body(foo=None), "foo", "Remove it"),
        (body(background=True), "background", "stream"),
        (body(conversation="conv_1"), "conversation", "previous_response_id"),
        (body(prompt={"id": "pmpt_1"}), "prompt", "instructions"),
        (body(max_tool_calls=2), "max_tool_calls", "built-in"),
        (body(truncation="auto"), "truncation", "old items"),
        (body(prompt_cache_retention="24h"), "prompt_cache_retention", "memory"),
        (body(text={"verbosity": "low"}), "text.verbosity", "instructions"),
        (body(text={"format": {"type": "grammar"}}), "text.format.type", "'grammar'"),
        (body(reasoning={"summary": "concise"}), "reasoning.summary", "detailed"),
        (body(reasoning={"generate_summary": "auto"}), "reasoning.generate_summary", "summary"),
        (body(reasoning={"context": "all_turns"}), "reasoning.context", "template"),
        (body(reasoning={"mode": "pro"}), "reasoning.mode", "OpenAI"),
        (body(include=["web_search_call.results"]), "include[0]", "logprobs"),
        (body(tools=[{"type": "custom", "name": "x"}]), "tools[0].type", "'custom'"),
        (
            body(tools=[{"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}]),
            "tools[0].tools[0].type",
            "'custom'",
        ),
        (body(tool_choice={"type": "file_search"}), "tool_choice.type", "'file_search'"),
        (
            body(
                tool_choice={
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "image_generation"}],
                }
            ),
            "tool_choice.tools[0].type",
            "'image_generation'",
        ),
        (item(type="computer_call", id="c"), "input[0].type", "'computer_call'"),
        (
            item(role="user", content=[{"type": "input_file", "file_id": "f"}]),
            "input[0].content[0].type",
            "'input_file'",
        ),
        (item(role="user", content="x", loud=True), "input[0].loud", "Remove it"),
    ],
)
def test_what_is_not_done_here_is_refused_by_its_name(raw: bytes, param: str, says: str) -> None:
    error = refusal(raw)
    assert isinstance(error, UnsupportedParameter), error.message
    assert error.param == param and says in error.message
    assert error.status == 400 and error.code == "unsupported_parameter"


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"{", None),
        (b'{"input":' + b"[" * 100_000, None),
        (body(input=7), "input"),
        (body(input=[7]), "input[0]"),
        (item(role="bot", content="x"), "input[0].role"),
        (item(role="user"), "input[0].content"),
        (item(type="function_call_output", output="x"), "input[0].call_id"),
        (body(tools=[{"type": "function"}]), "tools[0].name"),
        (body(tools=[{"type": "mcp"}, {"type": "function"}]), "tools[1].name"),
        (body(temperature=3), "temperature"),
        (body(max_output_tokens=0), "max_output_tokens"),
        (body(metadata={"a" * 65: "x"}), "metadata"),
        (body(metadata={str(n): "x" for n in range(17)}), "metadata"),
        (body(reasoning={"effort": "huge"}), "reasoning.effort"),
        (body(top_logprobs=2), "top_logprobs"),
        (body(text={"format": {"type": "json_schema", "name": "x"}}), "text.format.schema"),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_field(raw: bytes, param: str | None) -> None:
    error = refusal(raw)
    assert not isinstance(error, UnsupportedParameter)
    assert error.status == 400 and error.message
    if param is not None:
        assert error.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"background": False, "truncation": "disabled", "conversation": None, "prompt": None},
        {"text": {"verbosity": "medium", "format": {"type": "text"}}},
        {"reasoning": {"effort": None, "summary": "auto", "context": "auto", "mode": "standard"}},
        {"include": ["message.input_image.image_url", "reasoning.encrypted_content"]},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
        {"prompt_cache_retention": "in_memory", "stream_options": {"include_obfuscation": False}},
    ],
)
def test_what_asks_for_what_happens_anyway_is_accepted(fields: dict[str, Any]) -> None:
    parse(body(**fields))


def test_parts_as_libraries_write_them_out() -> None:
    image = {"type": "input_image", "image_url": "data:,", "detail": "auto", "file_id": None}
    _, items = parse(
        body(
            input=[
                {"role": "user", "content": [image]},
                {"type": "function_call_output", "call_id": "c", "output": [image], "id": None},
            ]
        )
    )
    plain = InputImage(image_url="data:,")
    assert items == [
        Message(role="user", content=[plain]),
        FunctionCallOutput(call_id="c", output=[plain]),
    ]


def test_items_in_short_forms() -> None:
    _, text = parse(body())
    assert text == [Message(role="user", content="x")]
    _, items = parse(
        body(
            input=[
                {"role": "user", "content": "x", "phase": None, "id": None},
                {"id": "msg_1"},
                {"type": "item_reference", "id": "msg_2"},
            ]
        )
    )
    assert items == [
        Message(role="user", content="x"),
        ItemReference(id="msg_1"),
        ItemReference(id="msg_2"),
    ]
    assert parse(b"{}")[1] == []
