from __future__ import annotations

from typing import Any

import pytest

from vllm_obtain.protocol.messages import UserMessage
from vllm_obtain.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    used_parameters,
)


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest(messages=[UserMessage("x")], **fields)


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
    assert list(used_parameters(chat(**fields))) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"echo": False, "suffix": "", "best_of": 1, "n": 1}, []),
        ({"echo": True}, []),
        ({"suffix": "x", "logprobs": 1}, ["logprobs", "suffix"]),
    ],
)
def test_what_a_completion_request_demands(fields: dict[str, Any], expected: list[str]) -> None:
    assert list(used_parameters(CompletionRequest(prompt="x", **fields))) == expected
