"""vLLM's chunks and errors, as 0.24 and 0.32 sent them, turned into ours."""

from __future__ import annotations

import json

import pytest

from vllm_obtain.engines.stream_parser import ENGINE_DEAD, read_chunk, read_error
from vllm_obtain.errors import ContextLengthExceeded, InvalidRequest
from vllm_obtain.protocol.events import Finish, PromptProgress, TextDelta, Usage

LIMIT = "This model's maximum context length is 2048 tokens. However, "


def error_body(message: str, status: int = 400, kind: str = "BadRequestError") -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "code": status}}).encode()


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("your prompt contains at least 2049 input tokens, which exceeds this", "at least 2049"),
        ("your prompt contains 9000 input tokens, which exceeds this limit", "9000"),
        (
            "you requested 5 output tokens and your prompt contains 9000 input tokens, for a "
            "total of 9005 tokens. Please reduce the length of the input prompt",
            "9000",
        ),
        (
            "your prompt contains 3600000 characters (more than 165888 characters, which is the "
            "upper bound for 2047 input tokens).",
            "at least 2048",
        ),
    ],
)
def test_a_prompt_that_is_too_long_is_told_with_both_numbers(message: str, found: str) -> None:
    error = read_error(error_body(LIMIT + message), 400)
    assert isinstance(error, ContextLengthExceeded)
    assert error.message.startswith(f"{LIMIT}your messages resulted in {found} tokens. Shorten")


def test_any_other_400_is_the_clients() -> None:
    error = read_error(error_body("Token id 99999999 is out of vocabulary"), 400)
    assert type(error) is InvalidRequest and "out of vocabulary" in error.message


def test_the_death_of_the_process_behind_the_front_has_a_code_of_its_own() -> None:
    text = "EngineCore encountered an issue. See stack trace (above) for the root cause."
    assert read_error(error_body(text, 500, "InternalServerError"), 500).code == ENGINE_DEAD


def test_usage_while_the_answer_runs_is_progress_and_at_its_end_usage() -> None:
    usage = {"prompt_tokens": 35, "total_tokens": 36, "completion_tokens": 1}
    first = {"choices": [{"index": 0, "delta": {"content": "What"}}], "usage": usage}
    assert read_chunk(json.dumps(first).encode()) == [PromptProgress(35, 35), TextDelta("What")]
    end = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}
    assert read_chunk(json.dumps(end).encode()) == [PromptProgress(35, 35), Finish("stop")]
    usage |= {"prompt_tokens_details": {"cached_tokens": 32}}  # type: ignore[dict-item]
    last = {"choices": [], "usage": usage}
    assert read_chunk(json.dumps(last).encode()) == [Usage(35, 1, 32)]


def test_log_probabilities_of_texts_come_in_the_shape_of_chats() -> None:
    logprobs = {
        "text_offset": [0],
        "token_logprobs": [-2.5],
        "tokens": ["é"],
        "top_logprobs": [{"é": -2.5, ",": -0.5}],
    }
    chunk = {"choices": [{"text": "é", "logprobs": logprobs}]}
    (delta,) = read_chunk(json.dumps(chunk).encode())
    assert isinstance(delta, TextDelta)
    (entry,) = delta.logprobs["content"]
    assert (entry["token"], entry["logprob"], entry["bytes"]) == ("é", -2.5, [0xC3, 0xA9])
    assert [other["token"] for other in entry["top_logprobs"]] == [",", "é"]


@pytest.mark.parametrize(("reason", "stop"), [("END", "END"), (151645, None), (None, None)])
def test_the_stop_text_that_ended_an_answer_is_told(reason: object, stop: str | None) -> None:
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": reason}
    assert read_chunk(json.dumps({"choices": [choice]}).encode()) == [Finish("stop", stop=stop)]
