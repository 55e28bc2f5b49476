"""The shapes that clients read, held against OpenAI's."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_obtain.protocol import responses
from vllm_obtain.protocol.events import Usage

USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 3,
    "total_tokens": 8,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def json_of(body: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(body))


def test_a_plain_chat_answer() -> None:
    choice = responses.ChatChoice(0, responses.ChatMessage("assistant", "hi"), None, "stop")
    usage = responses.UsageBody.of(Usage(5, 3, 2))
    assert json_of(responses.ChatCompletion("id", 1, "m", [choice], usage)) == {
        "id": "id",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
        "system_fingerprint": None,
    }


def test_a_chat_chunk_leaves_out_what_is_not_said() -> None:
    choice = responses.ChunkChoice(0, responses.ChatDelta(content="hi"))
    chunk = {
        "id": "id",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "delta": {"content": "hi"}, "logprobs": None, "finish_reason": None}
        ],
        "system_fingerprint": None,
    }
    assert json_of(responses.ChatChunk("id", 1, "m", [choice])) == chunk
    assert json_of(responses.ChatChunk("id", 1, "m", [choice], None)) == {**chunk, "usage": None}


def test_a_text_answer() -> None:
    choice = responses.TextChoice(0, "hi", finish_reason="length")
    usage = responses.UsageBody.of(Usage(5, 3, 2))
    body = json_of(responses.TextCompletion("id", 1, "m", [choice], usage))
    assert body["object"] == "text_completion"
    assert body["usage"] == USAGE
    assert body["choices"] == [
        {"index": 0, "text": "hi", "logprobs": None, "finish_reason": "length"}
    ]
