from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.protocol.parsing import parse_chat, parse_completion

USER = {"role": "user", "content": "x"}


def chat(**fields: Any) -> bytes:
    return json.dumps({"messages": [USER], **fields}).encode()


def chat_body(content: Any, **fields: Any) -> bytes:
    return chat(messages=[{"role": "user", "content": content, **fields}])


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"", None, "invalid_json"),
        (b"{", None, "invalid_json"),
        (b"\xff", None, "invalid_json"),
        (b"\xef\xbb\xbf{}", None, "invalid_json"),
        (chat() + b" x", None, "invalid_json"),
        (b'{"messages":[{"role":"user","content":"\\ud800"}]}', None, "invalid_json"),
        (b'{"messages":[{"role":"user","content":"\xed\xa0\x80"}]}', None, "invalid_json"),
        (chat()[:-1] + b',"temperature":NaN}', None, "invalid_json"),
        (b'{"response_format":' + b'{"a":' * 200_000, None, "invalid_json"),
        (b"[]", None, "invalid_value"),
        (b"{}", "messages", "missing_required_parameter"),
        (b'{"messages":' + b"[" * 100_000, "messages[0]", "invalid_value"),
        (chat(messages=[]), "messages", "invalid_value"),
        (chat(messages=[{"content": "x"}]), "messages[0].role", "missing_required_parameter"),
        (chat(messages=[{"role": 5}]), "messages[0].role", "invalid_value"),
        (chat(messages=[USER, {"role": "bot"}]), "messages[1].role", "invalid_value"),
        (chat(messages=[{"role": "user"}]), "messages[0].content", "missing_required_parameter"),
        (chat_body(5), "messages[0].content", "invalid_value"),
        (chat_body([]), "messages[0].content", "invalid_value"),
        (chat_body([{"type": "audio"}]), "messages[0].content[0].type", "invalid_value"),
        (
            chat_body([{"type": "text"}]),
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
        (chat_body("x", colour=1), "messages[0].colour", "unsupported_parameter"),
        (chat(colour=1), "colour", "unsupported_parameter"),
        (chat(stream_options={"x": 1}), "stream_options.x", "unsupported_parameter"),
        (chat(stream="yes"), "stream", "invalid_value"),
        (chat(temperature=2.1), "temperature", "invalid_value"),
        (chat(temperature="0"), "temperature", "invalid_value"),
        (chat(top_p=1.1), "top_p", "invalid_value"),
        (chat(top_k=-2), "top_k", "invalid_value"),
        (chat(min_p=-0.1), "min_p", "invalid_value"),
        (chat(repetition_penalty=5e-324), "repetition_penalty", "invalid_value"),
        (chat(repetition_penalty=0), "repetition_penalty", "invalid_value"),
        (chat(presence_penalty=-2.1), "presence_penalty", "invalid_value"),
        (chat(frequency_penalty=2.1), "frequency_penalty", "invalid_value"),
        (chat(max_tokens=0), "max_tokens", "invalid_value"),
        (chat(max_tokens=1.5), "max_tokens", "invalid_value"),
        (chat(max_tokens=10**30), "max_tokens", "invalid_value"),
        (chat(max_completion_tokens=-1), "max_completion_tokens", "invalid_value"),
        (chat(n=0), "n", "invalid_value"),
        (chat(seed=2**63), "seed", "invalid_value"),
        (chat(stop=""), "stop", "invalid_value"),
        (chat(stop=["x", ""]), "stop[1]", "invalid_value"),
        (chat(stop=["x"] * 65), "stop", "invalid_value"),
        (chat(logit_bias={"a": 1}), "logit_bias", "invalid_value"),
        (chat(logit_bias={"5\n": 1}), "logit_bias", "invalid_value"),
        (chat(logit_bias={"\u0665": 1}), "logit_bias", "invalid_value"),
        (chat(logit_bias={"5": 101}), "logit_bias[...]", "invalid_value"),
        (chat(top_logprobs=21), "top_logprobs", "invalid_value"),
        (chat(reasoning_effort="max"), "reasoning_effort", "invalid_value"),
        (chat(metadata={"a": 1}), "metadata[...]", "invalid_value"),
    ],
)
def test_a_bad_chat_request_is_told_which_field(body: bytes, param: str | None, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body)
    error = caught.value
    assert (error.param, error.code, error.status) == (param, code, 400)
    assert error.message
    assert isinstance(error, UnsupportedParameter) == (code == "unsupported_parameter")


def test_a_wrong_role_is_told_the_right_ones() -> None:
    with pytest.raises(InvalidRequest, match="allowed: system, developer, user, assistant"):
        parse_chat(chat(messages=[{"role": "bot", "content": "x"}]))
    with pytest.raises(InvalidRequest, match="allowed: text, image_url"):
        parse_chat(chat_body([{"type": "audio"}]))


@pytest.mark.parametrize("fields", [{}, {"stop": None, "n": None, "model": None}, {"stop": []}])
def test_null_is_the_same_as_left_out(fields: dict[str, Any]) -> None:
    assert not parse_chat(chat(**fields)).stop


def test_what_an_answer_held_may_be_sent_back() -> None:
    answer = {"role": "assistant", "content": "hi", "refusal": None, "reasoning_content": "why"}
    assert len(parse_chat(chat(messages=[USER, answer, USER])).messages) == 3


def test_a_whole_number_may_be_written_with_a_point() -> None:
    request = parse_chat(chat(max_tokens=20.0, seed=1e3, temperature=1.0, tools=[], metadata={}))
    assert (request.max_tokens, request.seed, request.temperature) == (20, 1000, 1)
    request = parse_chat(chat(max_tokens=20.0, logit_bias={"5": 1.5}))
    assert request.logit_bias == {"5": 1.5}
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(chat(max_tokens=20.0, top_logprobs=2.5))
    assert caught.value.param == "top_logprobs"
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(chat(n=1e30))
    assert caught.value.param == "n"


@pytest.mark.parametrize(
    ("prompt", "read"),
    [("x", "x"), ("", ""), (["x"], "x"), ([1, 2], [1, 2]), ([0], [0])],
)
def test_prompts(prompt: Any, read: Any) -> None:
    assert parse_completion(json.dumps({"prompt": prompt}).encode()).prompt == read


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x", "y"]}, "prompt"),
        ({"prompt": [1, "x"]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": "x", "logprobs": 6}, "logprobs"),
        ({"prompt": "x", "messages": []}, "messages"),
    ],
)
def test_bad_prompts(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_completion(json.dumps(body).encode())
    assert caught.value.param == param


@pytest.mark.parametrize("name", ["a.b", "", "a`b", "a[0]", "0", "a`$"])
def test_unknown_fields_of_any_name_are_ignored_if_asked_for(name: str) -> None:
    ignored: list[str] = []
    body = {"messages": [{"role": "user", "content": "x"}], name: 1}
    parse_chat(json.dumps(body).encode(), ignored)
    assert ignored == [name]


def test_numbers_out_of_range_beside_unknown_fields_are_refused() -> None:
    body = b'{"messages":[{"role":"user","content":"x"}],"x":1,"temperature":1e999}'
    with pytest.raises(InvalidRequest):
        parse_chat(body, [])
