from __future__ import annotations

from typing import Any

import pytest

from vllm_obtain.protocol.conversation import UserMessage
from vllm_obtain.protocol.requests import (
    USUAL,
    ChatRequest,
    CompletionRequest,
    Sampling,
    StreamOptions,
    demands,
)


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest(messages=[UserMessage("x")], **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, USUAL),
        ({"seed": 5, "max_tokens": 3}, USUAL),
        ({"temperature": 0}, Sampling(0, 1.0, 0, 0.0)),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1}, Sampling(0.5, 0.9, 5, 0.1)),
        ({"top_p": 0.9}, Sampling(1.0, 0.9, 0, 0.0)),
        ({"top_k": -1}, Sampling(1.0, 1.0, 0, 0.0)),
        ({"min_p": 0.1}, Sampling(1.0, 1.0, 0, 0.1)),
    ],
)
def test_a_request_that_names_one_sampling_value_gets_no_other_cut(
    fields: dict[str, Any], expected: Sampling
) -> None:
    assert chat(**fields).sampling == expected


@pytest.mark.parametrize(
    ("fields", "deterministic"),
    [({}, False), ({"temperature": 0}, True), ({"seed": 0}, True), ({"temperature": 0.1}, False)],
)
def test_what_is_deterministic(fields: dict[str, Any], deterministic: bool) -> None:
    assert chat(**fields).is_deterministic is deterministic


def test_the_limit_of_tokens() -> None:
    assert chat().token_limit is None
    assert chat(max_tokens=3).token_limit == 3
    assert chat(max_tokens=3, max_completion_tokens=5).token_limit == 5
    assert CompletionRequest(prompt="x", max_tokens=3).token_limit == 3


def test_how_it_is_delivered() -> None:
    assert not chat().wants_stream
    assert chat(stream=True).wants_stream
    assert not chat(stream=True, stream_options=StreamOptions()).wants_usage
    assert chat(stream_options=StreamOptions(include_usage=True)).wants_usage


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"model": "a", "stream": True, "user": "u", "metadata": {"a": "b"}}, []),
        ({"n": 1, "logprobs": False, "top_logprobs": 0, "min_tokens": 0, "ignore_eos": False}, []),
        ({"store": False, "service_tier": "auto"}, []),
        # The gateway's own work, whatever the engine.
        ({"tools": [1], "tool_choice": "required", "parallel_tool_calls": True}, []),
        ({"response_format": {"type": "json_object"}, "reasoning_effort": "none"}, []),
        ({"temperature": 0}, ["temperature"]),
        ({"n": 2}, ["n"]),
        ({"store": True}, ["store"]),
    ],
)
def test_what_a_chat_request_demands(fields: dict[str, Any], expected: list[str]) -> None:
    assert demands(chat(**fields)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"echo": False, "suffix": "", "best_of": 1, "n": 1}, []),
        ({"echo": True}, ["echo"]),
        ({"suffix": "x", "logprobs": 1}, ["logprobs", "suffix"]),
    ],
)
def test_what_a_completion_request_demands(fields: dict[str, Any], expected: list[str]) -> None:
    assert demands(CompletionRequest(prompt="x", **fields)) == expected
