from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_obtain.engines.stream_parser import read_chunk, read_error
from vllm_obtain.errors import (
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    ServiceError,
)
from vllm_obtain.protocol.events import Event, Finish, PromptProgress, TextDelta, Usage


def choice(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": finish, **fields}]}


@pytest.mark.parametrize(
    "chunk",
    [
        choice(text="x", logprobs={"tokens": [""], "": []}),
        choice(text="x", logprobs={"tokens": ["a"], "token_logprobs": [], "top_logprobs": []}),
        choice(text="x", logprobs={"tokens": 5, "token_logprobs": 5}),
        {"content": "x", "timings": {"cache_n": None}},
    ],
)
def test_a_chunk_of_another_shape_is_the_engines_fault(chunk: dict[str, Any]) -> None:
    with pytest.raises(EngineFailed, match="malformed chunk"):
        read_chunk(json.dumps(chunk).encode())


USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
PROGRESS = {"total": 9, "cache": 2, "processed": 4, "time_ms": 7}
OWN = {"index": 1, "tokens_evaluated": 5, "tokens_predicted": 3}
CACHED = {"prompt_tokens_details": {"cached_tokens": 4}}


@pytest.mark.parametrize(
    ("chunk", "events"),
    [
        ({}, []),
        ({"choices": []}, []),
        (choice(delta={"role": "assistant", "content": None}), []),
        (choice(delta={"content": ""}), []),
        (choice(delta={"content": "hi"}), [TextDelta("hi")]),
        (choice(text="hi"), [TextDelta("hi")]),
        (choice(delta={"content": "hi"}, logprobs={"x": 1}), [TextDelta("hi", {"x": 1})]),
        (choice("stop", delta={}), [Finish("stop")]),
        (
            {"choices": [{"index": 2, "text": "hi", "finish_reason": "stop"}]},
            [TextDelta("hi", index=2), Finish("stop", 2)],
        ),
        (choice("length", delta={"content": "hi"}), [TextDelta("hi"), Finish("length")]),
        ({"choices": [], "usage": USAGE}, [Usage(5, 3)]),
        ({"usage": {**USAGE, **CACHED}}, [Usage(5, 3, 4)]),
        ({"usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": None}}}, [Usage(5, 3)]),
        ({"usage": None}, []),
        ({**choice(delta={}), "prompt_progress": PROGRESS}, [PromptProgress(9, 4, 2)]),
        (
            {**choice("stop", text="x"), "usage": USAGE, "timings": {}},
            [TextDelta("x"), Finish("stop"), Usage(5, 3)],
        ),
        # llama.cpp's own shape.
        ({**OWN, "content": "", "prompt_progress": PROGRESS}, [PromptProgress(9, 4, 2)]),
        ({**OWN, "content": "x"}, [TextDelta("x", index=1)]),
        (
            {**OWN, "content": "x", "completion_probabilities": [{"token": "x"}]},
            [TextDelta("x", {"content": [{"token": "x"}]}, 1)],
        ),
        (
            {**OWN, "content": "", "stop_type": "limit", "timings": {"cache_n": 4}},
            [Finish("length", 1), Usage(5, 3, 4)],
        ),
        (
            {**OWN, "content": "x", "stop_type": "eos", "timings": {}},
            [TextDelta("x", index=1), Finish("stop", 1), Usage(5, 3)],
        ),
        ({**choice(text="x"), "id": "1", "timings": {"a": 1}, "unknown": []}, [TextDelta("x")]),
    ],
)
def test_chunks(chunk: dict[str, Any], events: list[Event]) -> None:
    assert read_chunk(json.dumps(chunk).encode()) == events


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"choices": 5}', b'{"choices": [{"text": "\xff"}]}', b"null"]
)
def test_chunks_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(EngineFailed, match="malformed chunk"):
        read_chunk(data)


CONTEXT = {"type": "exceed_context_size_error", "n_prompt_tokens": 900, "n_ctx": 512}


@pytest.mark.parametrize(
    ("error", "status", "expected", "text"),
    [
        ({"code": 400, "message": "no"}, 400, InvalidRequest, "rejected the request: no"),
        ({"code": 400, "message": "no"}, None, InvalidRequest, "no"),
        ({"code": "x", "message": "no"}, 422, InvalidRequest, "no"),
        ({"code": 500, "message": "boom"}, 500, EngineFailed, "failed: boom"),
        ({"code": None}, 503, EngineFailed, "unknown error"),
        (
            {**CONTEXT, "code": 400},
            400,
            ContextLengthExceeded,
            "512 tokens. However, your messages resulted in",
        ),
        ({"message": "Failed to load image or audio file"}, 400, InvalidRequest, "damaged"),
        ({"message": "Failed to load image: x", "code": 500}, 500, InvalidRequest, "damaged"),
        (
            {"message": "Failed to apply prompt replacement for mm_items['image'][0]"},
            500,
            InvalidRequest,
            "'chat_template'",
        ),
        (CONTEXT, None, ContextLengthExceeded, "at least 389 tokens"),
    ],
)
def test_errors(
    error: dict[str, Any], status: int | None, expected: type[ServiceError], text: str
) -> None:
    data = json.dumps({"error": error}).encode()
    if status is None:
        with pytest.raises(expected, match=text):
            read_chunk(data)
    else:
        made = read_error(data, status)
        assert type(made) is expected
        assert text in made.message


@pytest.mark.parametrize("body", [b"", b"Bad Gateway", b'{"detail": "x"}', b'{"error": "x"}'])
def test_error_answers_that_are_no_error_objects(body: bytes) -> None:
    error = read_error(body, 502)
    assert type(error) is EngineFailed
    assert "502" in error.message
