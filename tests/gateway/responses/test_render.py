"""What goes out, read by the official library's own types."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response as SDKResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.engine_requests import params
from vllm_obtain.errors import EngineFailed, Overloaded, ServiceError, UnsupportedParameter
from vllm_obtain.gateway.responses.encrypted_reasoning import unseal
from vllm_obtain.gateway.responses.parse import parse
from vllm_obtain.gateway.responses.render import ResponsesRenderer
from vllm_obtain.gateway.responses.response_types import ResponseBody
from vllm_obtain.gateway.responses.translate import to_chat
from vllm_obtain.protocol.events import (
    Event,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

USAGE = Usage(7, 5, 2, 3)
LOGPROBS = {
    "content": [
        {
            "token": "Hi",
            "logprob": -0.5,
            "bytes": None,
            "top_logprobs": [{"token": t, "logprob": -0.5, "bytes": [72]} for t in ("Hi", "Ho")],
        }
    ]
}
ANSWER: list[list[Event]] = [[], [TextDelta("Hel"), TextDelta("lo")], [Finish("stop")], [USAGE]]
CALLS: list[list[Event]] = [
    [ReasoningDelta("let "), ReasoningDelta("me see")],
    [TextDelta("Well.")],
    [ToolCallDelta(0, "", "call_a", "add"), ToolCallDelta(0, '{"a":'), ToolCallDelta(0, "1}")],
    [ToolCallDelta(1, "{}", "call_b", "sub")],
    [Finish("tool_calls"), USAGE],
]
_events: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class StoredBodies(list[ResponseBody]):
    """A store that notes what it is given."""

    def __call__(self, response: ResponseBody) -> bool:
        self.append(response)
        return True


def renderer(keep: Any = None, **fields: Any) -> ResponsesRenderer:
    asked, items = parse(json.dumps({"input": "x", **fields}).encode())
    chat = to_chat(asked, items)  # type: ignore[arg-type]  # no references in these
    return ResponsesRenderer(
        "m", params(chat), body=asked, store=StoredBodies() if keep is None else keep
    )


def plain(batches: Iterable[list[Event]], **fields: Any) -> dict[str, Any]:
    raw = msgspec.json.encode(renderer(**fields).plain(batches))
    made = json.loads(raw)
    parsed = SDKResponse.model_validate(made)
    assert lossless(parsed.model_dump(mode="json", by_alias=True), made)
    return dict(made)


def stream(batches: Iterable[list[Event]], **fields: Any) -> list[dict[str, Any]]:
    return read(b"".join(renderer(**fields).stream(batches)))


def read(raw: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each checked against the library's type."""
    events = []
    for block in raw.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        parsed = _events.validate_python(event)
        assert lossless(parsed.model_dump(mode="json", by_alias=True), event), event
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def lossless(parsed: Any, sent: Any) -> bool:
    """Whether a library's reading of something holds all that was sent, and no extra fields."""
    if isinstance(sent, dict):
        return all(name in parsed and lossless(parsed[name], sent[name]) for name in sent)
    if isinstance(sent, list):
        return len(parsed) == len(sent) and all(map(lossless, parsed, sent))
    return bool(parsed == sent)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """The types of events, pieces of one text counted once."""
    names = [event["type"].removeprefix("response.") for event in events]
    return [
        name
        for at, name in enumerate(names)
        if not (name.endswith("delta") and names[at - 1] == name)
    ]


def test_an_answer_whole() -> None:
    response = plain(ANSWER, metadata={"a": "b"}, instructions="Be kind.", user="u")
    assert response["id"].startswith("resp_") and response["status"] == "completed"
    (item,) = response["output"]
    assert item["content"] == [
        {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    ]
    assert (item["role"], item["status"]) == ("assistant", "completed")
    assert response["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 12,
    }
    assert response["metadata"] == {"a": "b"} and response["instructions"] == "Be kind."
    assert (response["temperature"], response["top_p"]) == (0.8, 0.95), "what it was drawn with"
    assert response["completed_at"] >= response["created_at"]


def test_an_answer_streamed() -> None:
    events = stream(ANSWER)
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [e["delta"] for e in events if "delta" in e] == ["Hel", "lo"]
    assert events[0]["response"]["output"] == [] and events[2]["item"]["content"] == []
    assert events[0]["response"]["id"] == events[-1]["response"]["id"]
    assert events[-1]["response"]["output"] == [events[-2]["item"]]


@pytest.mark.parametrize("batches", [ANSWER, CALLS])
def test_a_stream_ends_with_what_a_plain_answer_is(batches: list[list[Event]]) -> None:
    tool = {"type": "function", "name": "add", "description": None, "parameters": {}}
    whole = plain(batches, tools=[tool], temperature=0)
    ended = stream(batches, tools=[tool], temperature=0)[-1]["response"]
    assert _without_ids(whole) == _without_ids(ended)


def _without_ids(response: dict[str, Any]) -> dict[str, Any]:
    changing = ("id", "created_at", "completed_at")
    left = {name: value for name, value in response.items() if name not in changing}
    items = [{k: v for k, v in item.items() if k != "id"} for item in response["output"]]
    return {**left, "output": items}


def test_reasoning_text_and_calls_streamed() -> None:
    events = stream(CALLS)
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        *["output_item.added", "function_call_arguments.delta"],
        *["function_call_arguments.done", "output_item.done"] * 1,
        *["output_item.added", "function_call_arguments.delta"],
        *["function_call_arguments.done", "output_item.done"],
        "completed",
    ]
    thought, answer, first, second = events[-1]["response"]["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "let me see"}]
    assert "encrypted_content" not in thought
    assert answer["content"][0]["text"] == "Well."
    assert (first["call_id"], first["name"], first["arguments"]) == ("call_a", "add", '{"a":1}')
    assert (second["call_id"], second["arguments"]) == ("call_b", "{}")
    assert first["id"].startswith("fc_") and first["status"] == "completed"
    added = [event for event in events if event["type"].endswith("item.added")]
    assert [event["output_index"] for event in added] == [0, 1, 2, 3]
    assert added[2]["item"]["arguments"] == ""
    assert added[2]["item"]["name"] == "add"
    by_item = {e["output_index"]: e["item_id"] for e in events if "item_id" in e}
    assert by_item == {event["output_index"]: event["item"]["id"] for event in added}


def test_reasoning_as_its_summary_and_sealed() -> None:
    body = {
        "reasoning": {"summary": "auto"},
        "include": ["reasoning.encrypted_content"],
    }
    events = stream(CALLS, **body)
    assert kinds(events)[2:9] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
    ]
    thought = events[-1]["response"]["output"][0]
    assert thought["summary"] == [{"type": "summary_text", "text": "let me see"}]
    assert "content" not in thought
    assert unseal(thought["encrypted_content"], "") == "let me see"


@pytest.mark.parametrize(
    "batches",
    [[[TextDelta("Hi")], [Finish("length"), USAGE]], [[ReasoningDelta("h")], [Finish("length")]]],
)
def test_an_answer_that_was_cut_off_is_incomplete(batches: list[list[Event]]) -> None:
    events = stream(batches)
    assert events[-1]["type"] == "response.incomplete"
    response = events[-1]["response"]
    assert response["status"] == "incomplete" and response["completed_at"] is None
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][-1]["status"] == "incomplete"
    assert plain(batches)["status"] == "incomplete"


def test_an_answer_of_no_words_is_a_message_all_the_same() -> None:
    (item,) = plain([[Finish("stop"), USAGE]])["output"]
    assert item["content"][0]["text"] == ""


def test_log_probabilities_come_if_they_are_included() -> None:
    body = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    batches: list[list[Event]] = [[TextDelta("Hi", LOGPROBS)], [Finish("stop"), USAGE]]
    (entry,) = plain(batches, **body)["output"][0]["content"][0]["logprobs"]
    top = [{"token": "Hi", "logprob": -0.5, "bytes": [72]}]
    assert entry == {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": top}
    events = stream(batches, **body)
    (delta,) = [e for e in events if e["type"].endswith("output_text.delta")]
    short = {"token": "Hi", "logprob": -0.5, "top_logprobs": [{"token": "Hi", "logprob": -0.5}]}
    assert delta["logprobs"] == [short]


def test_a_stream_that_waits_is_kept_alive() -> None:
    parts = list(renderer().stream([[], [], [TextDelta("x")], [Finish("stop")]]))
    assert b"response.created" in parts[0] and parts[1] == b": waiting\n\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineFailed("It died."), "server_error"),
        (Overloaded("full"), "rate_limit_exceeded"),
        (UnsupportedParameter("messages", "No."), "invalid_prompt"),
    ],
)
def test_a_stream_that_breaks_off_tells_why_and_what_there_was(
    error: ServiceError, code: str
) -> None:
    store = StoredBodies()
    made = renderer(store)
    running = made.stream(iter([[TextDelta("Hel")]]))
    raw = next(running) + made.failed(error)
    events = read(raw)
    assert kinds(events)[-4:] == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "failed",
    ]
    response = events[-1]["response"]
    assert response["status"] == "failed" and response["error"]["code"] == code
    assert "messages" not in response["error"]["message"]
    assert response["output"][0]["content"][0]["text"] == "Hel"
    assert response["store"] is False and store == []


def test_a_stream_that_never_began_is_an_error() -> None:
    (event,) = read(renderer().failed(EngineFailed("It died.")))
    assert event == {
        "type": "error",
        "sequence_number": 0,
        "code": "engine_failed",
        "message": "It died.",
        "param": None,
    }


def test_a_response_is_kept_before_its_end_is_told() -> None:
    store = StoredBodies()
    running = renderer(store).stream(ANSWER)
    *before, end = [(told, len(store)) for told in running]
    assert {number for _, number in before} == {0}
    assert b"response.completed" in end[0] and end[1] == 1
    assert store[0].status == "completed"


def test_a_response_says_whether_it_is_kept() -> None:
    assert plain(ANSWER)["store"] is True
    assert plain(ANSWER, keep=lambda _: False)["store"] is False
    store = StoredBodies()
    assert plain(ANSWER, keep=store, store=False)["store"] is False
    assert store == [], "nor is it offered"


def test_what_it_echoes_is_what_was_asked() -> None:
    tool = {"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": True}
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    body = {
        "tools": [tool],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": schema},
        "parallel_tool_calls": False,
        "max_output_tokens": 9,
        "previous_response_id": "resp_0",
        "reasoning": {"effort": "low"},
        "temperature": 0.5,
    }
    response = plain(ANSWER, **body)
    text, reasoning = response.pop("text"), response.pop("reasoning")
    assert {name: response[name] for name in body if name in response} == {
        name: value for name, value in body.items() if name in response
    }
    assert text["format"] == {**schema, "description": None}
    assert reasoning == {"effort": "low", "summary": None}
    assert response["top_p"] == 1.0
