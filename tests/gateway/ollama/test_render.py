"""Ollama's answers from events, whole and line by line."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.engine_requests import params
from vllm_obtain.errors import EngineFailed, UnsupportedParameter
from vllm_obtain.gateway.core.usage import GenerationStats
from vllm_obtain.gateway.ollama.render import ChatRenderer, GenerateRenderer, OllamaRenderer
from vllm_obtain.gateway.ollama.timings import TimingRecorder
from vllm_obtain.protocol.events import (
    Event,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from vllm_obtain.protocol.messages import UserMessage
from vllm_obtain.protocol.requests import ChatRequest

END: list[Event] = [Finish("stop"), Usage(10, 4)]
WORDS: list[list[Event]] = [
    [],
    [ReasoningDelta("Hm.")],
    [TextDelta("Hel")],
    [TextDelta("lo"), *END],
]
CALLS: list[list[Event]] = [
    [],
    [TextDelta("Look:"), ToolCallDelta(0, id="call_a", name="look")],
    [ToolCallDelta(0, '{"city"')],
    [ToolCallDelta(0, ':"Ulm"}'), ToolCallDelta(1, id="call_b", name="stop")],
    [Finish("tool_calls"), Usage(10, 9)],
]


class Clock:
    """Seconds that pass one at a time, whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def renderer(kind: type[OllamaRenderer] = ChatRenderer, **asked: Any) -> OllamaRenderer:
    request = ChatRequest(messages=[UserMessage("Hi")], **asked)
    return kind("m:latest", params(request), TimingRecorder(0.0, clock=Clock()))


def plain(events: list[list[Event]], kind: type[OllamaRenderer] = ChatRenderer) -> Any:
    import msgspec

    return json.loads(msgspec.json.encode(renderer(kind).plain(events)))


def lines(events: list[list[Event]], kind: type[OllamaRenderer] = ChatRenderer) -> list[Any]:
    told = list(renderer(kind).stream(events))
    assert all(part == b"" or (part.count(b"\n") == 1 and part[-1:] == b"\n") for part in told)
    return [json.loads(part) for part in told if part]


def test_a_plain_chat() -> None:
    body = plain(WORDS)
    assert body["message"] == {"role": "assistant", "content": "Hello", "thinking": "Hm."}
    assert (body["model"], body["done"], body["done_reason"]) == ("m:latest", True, "stop")
    assert (body["prompt_eval_count"], body["eval_count"]) == (10, 4)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["created_at"])


def test_a_plain_generate() -> None:
    body = plain(WORDS, GenerateRenderer)
    assert (body["response"], body["thinking"]) == ("Hello", "Hm.")
    assert body["done"] and "message" not in body


def test_a_streamed_chat() -> None:
    *pieces, last = lines(WORDS)
    assert [piece["message"] for piece in pieces] == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "Hel"},
        {"role": "assistant", "content": "lo"},
    ]
    assert not any(piece["done"] or "done_reason" in piece for piece in pieces)
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "stop", 4)


def test_a_streamed_generate() -> None:
    *pieces, last = lines(WORDS, GenerateRenderer)
    assert [(piece["response"], piece.get("thinking")) for piece in pieces] == [
        ("", "Hm."),
        ("Hel", None),
        ("lo", None),
    ]
    assert last["response"] == "" and last["done"]


def test_what_came_together_goes_out_together() -> None:
    *pieces, _ = lines([[TextDelta("a"), TextDelta("b")], [TextDelta("c")], END])
    assert [piece["message"]["content"] for piece in pieces] == ["ab", "c"]


def test_a_stream_that_waits_sends_its_head_and_then_lines_that_say_nothing() -> None:
    told = list(renderer().stream([[], [], [TextDelta("a")], [], END]))
    assert told[0] == b""
    contents = [json.loads(part)["message"]["content"] for part in told[1:]]
    assert contents == ["", "a", "", ""]


def test_calls_are_whole_in_both() -> None:
    calls = [
        {"id": "call_a", "function": {"index": 0, "name": "look", "arguments": {"city": "Ulm"}}},
        {"id": "call_b", "function": {"index": 1, "name": "stop", "arguments": {}}},
    ]
    body = plain(CALLS)
    assert body["message"] == {"role": "assistant", "content": "Look:", "tool_calls": calls}
    assert body["done_reason"] == "stop"
    text, called, last = lines(CALLS)
    assert text["message"] == {"role": "assistant", "content": "Look:"}
    assert called["message"] == {"role": "assistant", "content": "", "tool_calls": calls}
    assert last["done"] and "tool_calls" not in last["message"]


def test_a_call_that_was_cut_off_is_left_out_and_the_reason_told() -> None:
    cut: list[list[Event]] = [
        [
            ToolCallDelta(0, "{}", "call_a", "look"),
            ToolCallDelta(1, '{"city":"U', "call_b", "look"),
        ],
        [Finish("length"), Usage(10, 9)],
    ]
    assert [call["id"] for call in plain(cut)["message"]["tool_calls"]] == ["call_a"]
    *_, called, last = lines(cut)
    assert [call["id"] for call in called["message"]["tool_calls"]] == ["call_a"]
    assert last["done_reason"] == plain(cut)["done_reason"] == "length"


def test_arguments_that_are_whole_and_no_object_are_a_fault() -> None:
    broken: list[list[Event]] = [[ToolCallDelta(0, "[1]", "call_a", "look")], END]
    with pytest.raises(EngineFailed, match="'look'"):
        plain(broken)
    with pytest.raises(EngineFailed, match="'look'"):
        lines(broken)


def test_log_probabilities_come_with_their_tokens() -> None:
    others = [{"token": t, "logprob": -i, "bytes": [1], "x": 0} for i, t in enumerate("abc")]
    entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": others}
    events: list[list[Event]] = [[TextDelta("a", {"content": [entry]})], END]
    body = {"logprobs": True, "top_logprobs": 2}
    response = [json.loads(part) for part in renderer(**body).stream(events)]
    (logprob,) = response[0]["logprobs"]
    assert (logprob["token"], logprob["logprob"], logprob["bytes"]) == ("a", -0.5, [97])
    assert [other["token"] for other in logprob["top_logprobs"]] == ["a", "b"]
    assert "x" not in logprob["top_logprobs"][0] and "logprobs" not in response[-1]


def test_times_are_told_in_nanoseconds() -> None:
    body = plain(WORDS)  # the clock ticks once per list of events, and once at the end
    second = 1_000_000_000
    assert body["load_duration"] == 1 * second
    assert body["prompt_eval_duration"] == 1 * second
    assert body["eval_duration"] == 2 * second
    assert body["total_duration"] == 5 * second


def test_the_wait_for_an_engine_is_what_the_generation_knows() -> None:
    stats = GenerationStats()
    stats.served = 0.25
    watch = TimingRecorder(0.0, stats, Clock())
    request = ChatRequest(messages=[UserMessage("Hi")])
    body = ChatRenderer("m", params(request), watch).plain(WORDS)
    assert body.load_duration == 250_000_000  # type: ignore[attr-defined]
    assert body.prompt_eval_duration == 1_750_000_000  # type: ignore[attr-defined]


def test_no_duration_is_0_since_rates_are_made_of_them() -> None:
    body = ChatRenderer(
        "m",
        params(ChatRequest(messages=[UserMessage("Hi")])),
        TimingRecorder(0.0, clock=lambda: 0.0),
    ).plain([[TextDelta("kept"), *END]])
    assert body.eval_duration == body.prompt_eval_duration == 1  # type: ignore[attr-defined]


def test_an_error_is_a_line_that_names_fields_as_the_client_does() -> None:
    error = UnsupportedParameter("max_tokens", "No.")
    assert json.loads(renderer().failed(error)) == {
        "error": "Unsupported parameter: 'options.num_predict'. No."
    }
