"""Messages and streams of Anthropic's shape, as its SDK reads them, from events made by hand."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.engine_requests import params
from vllm_obtain.errors import (
    ContextLengthExceeded,
    EngineFailed,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    RequestTimeout,
    ServiceError,
    TooLarge,
)
from vllm_obtain.gateway.anthropic.render import MessageRenderer, Shown
from vllm_obtain.gateway.anthropic.response_types import error_body
from vllm_obtain.protocol.events import (
    Event,
    Finish,
    PromptProgress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from vllm_obtain.protocol.messages import UserMessage
from vllm_obtain.protocol.requests import ChatRequest

REQUEST = ChatRequest(messages=[UserMessage("hi")])
STREAMED: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
USAGE = Usage(12, 5, 8, 2)

TALE: list[list[Event]] = [
    [],
    [PromptProgress(12, 12, 8), ReasoningDelta("Let me "), ReasoningDelta("see.")],
    [TextDelta("\n\n")],
    [TextDelta(" Well"), TextDelta(", yes.")],
    [TextDelta("\n"), ToolCallDelta(0, "", "c0", "add")],
    [ToolCallDelta(0, '{"a":'), ToolCallDelta(0, " 1}")],
    [ToolCallDelta(1, "{}", "c1", "now")],
    [Finish("tool_calls"), USAGE],
]


def renderer(thinking: Shown = "shown") -> MessageRenderer:
    return MessageRenderer("tiny", params(REQUEST), "req_1", thinking)


def plain(batches: list[list[Event]], thinking: Shown = "shown") -> Any:
    return json.loads(msgspec.json.encode(renderer(thinking).plain(batches)))


def stream_events(batches: list[list[Event]], thinking: Shown = "shown") -> list[tuple[str, Any]]:
    """Names and data of the events of a stream."""
    text = b"".join(renderer(thinking).stream(batches)).decode()
    events = [block.split("\n") for block in text.removesuffix("\n\n").split("\n\n")]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in events
    ]


def kinds(events: list[tuple[str, Any]]) -> list[str]:
    return [
        data["delta"]["type"] if name == "content_block_delta" else name for name, data in events
    ]


def accumulate(events: list[tuple[str, Any]]) -> Any:
    """What the official SDK makes of a stream."""
    message: Any = None
    buffers: dict[int, bytes] = {}
    for name, data in events:
        if name != "ping":
            parsed = STREAMED.validate_python(data)
            message = accumulate_event(event=parsed, current_snapshot=message, json_bufs=buffers)
    return message.to_dict()


def test_a_message_of_thoughts_text_and_calls() -> None:
    response = plain(TALE)
    thinking, *rest = response["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "Let me see.")
    assert len(thinking["signature"]) == 64
    assert rest == [
        {"type": "text", "text": "\n\n Well, yes.\n", "citations": None},
        {"type": "tool_use", "id": "c0", "name": "add", "input": {"a": 1}, "caller": None},
        {"type": "tool_use", "id": "c1", "name": "now", "input": {}, "caller": None},
    ]
    assert response["usage"] == {
        "input_tokens": 4,
        "output_tokens": 5,
        "cache_read_input_tokens": 8,
        "cache_creation_input_tokens": 0,
        "output_tokens_details": {"thinking_tokens": 2},
        "cache_creation": None,
        "inference_geo": None,
        "server_tool_use": None,
        "service_tier": None,
    }
    assert (response["container"], response["stop_details"]) == (None, None)
    assert (response["stop_reason"], response["stop_sequence"]) == ("tool_use", None)
    assert (response["type"], response["role"], response["model"]) == (
        "message",
        "assistant",
        "tiny",
    )
    assert response["id"].startswith("msg_")
    Message.model_validate(response)


def test_a_stream_says_so_event_by_event() -> None:
    events = stream_events(TALE)
    assert kinds(events) == [
        *("ping", "message_start"),
        *("content_block_start", "thinking_delta", "thinking_delta", "signature_delta"),
        *("content_block_stop", "content_block_start", "text_delta", "text_delta", "text_delta"),
        *("content_block_stop", "content_block_start", "input_json_delta", "input_json_delta"),
        *("content_block_stop", "content_block_start", "input_json_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert all(data["type"] == name for name, data in events)
    start = events[1][1]["message"]
    assert (start["content"], start["stop_reason"]) == ([], None)
    usage = start["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (4, 8)
    assert usage["output_tokens"] == 0


@pytest.mark.parametrize("thinking", ["shown", "omitted", "hidden"])
@pytest.mark.parametrize(
    "batches",
    [
        TALE,
        [[TextDelta("a")], [Finish("length"), USAGE]],
        [[Finish("stop")], [USAGE]],
        [[TextDelta(" \n"), ToolCallDelta(0, "{}", "c", "f")], [Finish("tool_calls"), USAGE]],
        [
            [TextDelta(" "), ReasoningDelta("t"), TextDelta(""), TextDelta(" x")],
            [Finish("stop"), USAGE],
        ],
        [[TextDelta(" \n")], [Finish("stop"), USAGE]],
    ],
)
def test_the_sdk_makes_the_plain_message_of_a_stream(
    batches: list[list[Event]], thinking: Shown
) -> None:
    whole, read = plain(batches, thinking), accumulate(stream_events(batches, thinking))
    names = ("content", "usage", "stop_reason", "stop_sequence", "model", "role", "type")
    assert {name: read[name] for name in names} == {name: whole[name] for name in names}


def test_white_space_alone_is_no_block() -> None:
    response = plain(
        [
            [
                TextDelta("\n\n"),
                ToolCallDelta(0, "{}", "c", "f"),
                TextDelta("\n"),
                Finish("tool_calls"),
            ]
        ]
    )
    assert [block["type"] for block in response["content"]] == ["tool_use"]


@pytest.mark.parametrize(
    ("thinking", "blocks"),
    [("shown", ["thinking", "text"]), ("omitted", ["thinking", "text"]), ("hidden", ["text"])],
)
def test_thoughts_are_shown_as_was_asked(thinking: Shown, blocks: list[str]) -> None:
    response = plain([[ReasoningDelta("hm")], [TextDelta("a"), Finish("stop"), USAGE]], thinking)
    assert [block["type"] for block in response["content"]] == blocks
    assert response["content"][0].get("thinking", "hidden") == {"shown": "hm", "omitted": ""}.get(
        thinking, "hidden"
    )


CALL = ToolCallDelta(0, "{}", "c", "f")


@pytest.mark.parametrize(
    ("said", "finish", "reason", "sequence"),
    [
        (TextDelta("a"), Finish("stop"), "end_turn", None),
        (TextDelta("a"), Finish("length"), "max_tokens", None),
        (TextDelta("a"), Finish("stop", stop="END"), "stop_sequence", "END"),
        (CALL, Finish("tool_calls"), "tool_use", None),
        (CALL, Finish("stop"), "tool_use", None),  # of a tool that the client named
        (CALL, Finish("length"), "max_tokens", None),
    ],
)
def test_why_a_message_ended(
    said: Event, finish: Finish, reason: str, sequence: str | None
) -> None:
    response = plain([[said, finish, USAGE]])
    assert (response["stop_reason"], response["stop_sequence"]) == (reason, sequence)


def test_a_call_that_was_cut_off_has_no_input() -> None:
    response = plain([[ToolCallDelta(0, '{"a', "c", "f")], [Finish("length"), USAGE]])
    assert (response["content"][0]["input"], response["stop_reason"]) == ({}, "max_tokens")


def test_a_stream_that_waits_is_kept_alive_by_pings() -> None:
    names = [
        name for name, _ in stream_events([[], [], [], [TextDelta("a"), Finish("stop"), USAGE]])
    ]
    assert names[:5] == ["ping", "ping", "ping", "message_start", "content_block_start"]


def test_an_error_breaks_a_stream_off_as_an_event() -> None:
    name, data = renderer().failed(EngineFailed("It died.")).decode().strip().split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "error",
        "error": {"type": "api_error", "message": "It died."},
        "request_id": "req_1",
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("x"), "invalid_request_error"),
        (InvalidRequest("x", status=422), "invalid_request_error"),
        (InvalidRequest("x", status=401), "authentication_error"),
        (InvalidRequest("x", status=403), "permission_error"),
        (ModelNotFound("x", []), "not_found_error"),
        (TooLarge("x"), "request_too_large"),
        (Overloaded("x"), "rate_limit_error"),
        (Overloaded("x", status=503), "overloaded_error"),
        (RequestTimeout("x"), "timeout_error"),
        (InternalError("x"), "api_error"),
        (EngineFailed("x"), "api_error"),
    ],
)
def test_errors_have_anthropics_types(error: ServiceError, kind: str) -> None:
    assert error_body(error, "r")["error"]["type"] == kind


def test_a_prompt_that_is_too_long_is_told_in_words_that_agents_know() -> None:
    message = error_body(ContextLengthExceeded(9000, 8192), "r")["error"]["message"]
    assert message.startswith("prompt is too long: 9000 tokens > 8191 maximum")
