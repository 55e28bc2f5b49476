"""Anthropic's official SDK against a real service."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.test_chat import MODEL
from tests.profiles import Fakes
from tests.service import Service

if TYPE_CHECKING:  # it takes 1.5 s to import, in each worker of the tests
    from anthropic import Anthropic
    from anthropic.types import Message

QUESTION = "What is the capital of France?"
GREEDY = {"temperature": 0}
CACHE = {"type": "ephemeral"}
BILLING = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch={};"


def client_of(service: Service) -> Anthropic:
    from anthropic import Anthropic

    return Anthropic(base_url=service.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Anthropic]:
    with client_of(service) as sdk:
        yield sdk


def request_fields(text: str = QUESTION, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    body = {"model": MODEL, "max_tokens": 40, "messages": messages, "system": "Be brief."}
    return {**body, "extra_body": GREEDY, **more}


def text_of(message: Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


def test_a_message(client: Anthropic) -> None:
    message = client.messages.create(**request_fields())
    assert "Paris" in text_of(message)
    assert (message.role, message.model, message.stop_reason) == ("assistant", MODEL, "end_turn")
    assert message.usage.input_tokens > 5 and message.usage.output_tokens > 3
    assert message._request_id and message._request_id.startswith("req_")


def test_a_stream_says_the_same(client: Anthropic) -> None:
    whole = client.messages.create(**request_fields(metadata={"user_id": "whole"}))
    with client.messages.stream(**request_fields()) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == text_of(message) == text_of(whole)
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 5
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert message.stop_reason == "end_turn"


def test_a_system_prompt_and_turns_are_those_of_a_chat(client: Anthropic, service: Service) -> None:
    turns = [("user", "My name is Ada."), ("assistant", "Hello Ada!"), ("user", "Who am I?")]
    messages = [
        {"role": role, "content": [{"type": "text", "text": text, "cache_control": CACHE}]}
        for role, text in turns
    ]
    system = [{"type": "text", "text": "Be brief.", "cache_control": CACHE}]
    message = client.messages.create(**request_fields(messages=messages, system=system))
    chat = [{"role": role, "content": text} for role, text in [("system", "Be brief."), *turns]]
    body = {"model": MODEL, "messages": chat, "max_tokens": 40, **GREEDY}
    answer = service.json("/v1/chat/completions", body)
    assert text_of(message) == answer["choices"][0]["message"]["content"]
    usage = message.usage
    prompt = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert prompt == answer["usage"]["prompt_tokens"]


def test_an_answer_ends_at_its_limits(client: Anthropic) -> None:
    short = client.messages.create(**request_fields("Count to ten.", max_tokens=3))
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)
    stopped = client.messages.create(**request_fields(stop_sequences=["Paris"]))
    assert "capital" in text_of(stopped) and "Paris" not in text_of(stopped)
    # Agents ask for more than a small model's context holds. The stop sequences keep it short.
    soon = [".", ",", "\n", " the"]
    long = client.messages.create(**request_fields(max_tokens=20_000, stop_sequences=soon))
    assert long.stop_reason in ("end_turn", "stop_sequence")


def test_a_billing_header_leaves_the_engines_cache_alone(client: Anthropic) -> None:
    rules = "\n".join(f"Rule {number}: be brief, and be kind." for number in range(25))
    used = []
    for number in range(2):
        system = [
            {"type": "text", "text": BILLING.format(f"{number}ab3")},
            {"type": "text", "text": rules, "cache_control": CACHE},
        ]
        message = client.messages.create(
            **request_fields(f"{number} apples?", system=system, max_tokens=2)
        )
        used.append(message.usage)
    known = used[1].cache_read_input_tokens or 0
    assert known > 250 and used[1].input_tokens < 60


def test_what_claude_code_sends(service: Service) -> None:
    """A request with all that it labels its requests with, on a model that cannot think."""
    body = {
        **request_fields(),
        "system": [{"type": "text", "text": BILLING.format("1")}, {"type": "text", "text": "Hi."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
            {"role": "system", "content": "Skills: none.", "output_config": {"effort": "low"}},
        ],
        "max_tokens": 32_000,
        "metadata": {"user_id": '{"device_id":"d","session_id":"s"}'},
        "thinking": {"type": "enabled", "budget_tokens": 31_999},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "temperature": 1,
        # It sends none; without them a small model may tell stories up to its whole context.
        "stop_sequences": [".", ",", "\n", " the"],
        "stream": True,
    }
    del body["extra_body"]
    headers = {
        "Authorization": "Bearer none",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,context-management-2025-06-27",
    }
    status, answered, text = service.request("/v1/messages?beta=true", body, headers)
    assert status == 200, text
    assert answered["content-type"].startswith("text/event-stream")
    assert answered["request-id"] == answered["x-request-id"]
    ignored = "thinking.budget_tokens, output_config.effort"
    assert answered["x-ignored-parameters"] == ignored
    assert b"event: message_start\ndata: {" in text
    assert text.rstrip().endswith(b'data: {"type":"message_stop"}')


LONG = [{"role": "user", "content": "word " * 9000}]


def sdk_error(name: str) -> type[Exception]:
    import anthropic

    found: type[Exception] = getattr(anthropic, name)
    return found


REFUSED = [
    ({"model": "gone"}, "NotFoundError", "not_found_error", MODEL),
    ({"max_tokens": 0}, "BadRequestError", "invalid_request_error", "max_tokens"),
    ({"messages": []}, "BadRequestError", "invalid_request_error", "messages"),
    ({"extra_body": {"speed": "x"}}, "BadRequestError", "invalid_request_error", "speed"),
    ({"messages": LONG}, "BadRequestError", "invalid_request_error", "too long"),
]


@pytest.mark.parametrize(("body", "kind", "name", "named"), REFUSED)
def test_a_refusal_is_the_sdks_error(
    client: Anthropic,
    body: dict[str, Any],
    kind: str,
    name: str,
    named: str,
) -> None:
    with pytest.raises(sdk_error(kind), match=named) as caught:
        client.messages.create(**{**request_fields(), **body})
    error: Any = caught.value
    error, request_id = error.body, error.request_id
    assert (error["type"], error["error"]["type"]) == ("error", name)
    assert error["request_id"] == request_id


@pytest.mark.parametrize(
    ("path", "data", "status", "kind"),
    [
        ("/v1/messages", b"{", 400, "invalid_request_error"),
        ("/v1/messages", None, 405, "invalid_request_error"),
        ("/v1/messages/nothing", b"{}", 404, "not_found_error"),
        ("/v1/messages/count_tokens", b"{}", 400, "invalid_request_error"),
    ],
)
def test_every_error_below_the_route_has_its_shape(
    service: Service, path: str, data: bytes | None, status: int, kind: str
) -> None:
    answered, headers, text = service.request(path, data)
    body = json.loads(text)
    assert (answered, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert body["request_id"] == headers["request-id"]


def test_errors_elsewhere_keep_their_shape(service: Service) -> None:
    _, headers, text = service.request("/v1/chat/completions", b"{")
    assert json.loads(text)["error"]["code"] == "invalid_json"
    assert "request-id" not in headers


@pytest.mark.parametrize(
    ("body", "kind", "named"),
    [
        ({"model": "gone"}, "NotFoundError", MODEL),
        ({"messages": []}, "BadRequestError", "messages"),
    ],
)
def test_a_count_is_refused_as_a_message_is(
    client: Anthropic, body: dict[str, Any], kind: str, named: str
) -> None:
    variables = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **body}
    with pytest.raises(sdk_error(kind), match=named):
        client.messages.count_tokens(**variables)


def test_a_count_is_what_a_message_takes(client: Anthropic) -> None:
    variables = {"model": MODEL, "messages": request_fields()["messages"], "system": "Be brief."}
    counted = client.messages.count_tokens(**variables)
    used = client.messages.create(**variables, max_tokens=1).usage
    assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)


@pytest.fixture(scope="module")
def faulty_models(fakes: Fakes) -> Fakes:
    """An engine that breaks in mid-stream, and one that reads its prompt until a file is there."""
    fakes.add("breaking", error_after_tokens=2)
    fakes.add("reading", hang_before_first_byte=fakes.folder / "read")
    return fakes


def test_a_stream_that_breaks_off_ends_with_an_error(faulty_models: Service) -> None:
    said: list[str] = []
    with (
        client_of(faulty_models) as client,
        pytest.raises(sdk_error("APIStatusError"), match="as the switch says") as caught,
        client.messages.stream(**request_fields("one two three", model="breaking")) as stream,
    ):
        said.extend(stream.text_stream)
    assert "".join(said).split() == ["one", "two"]
    error: Any = caught.value
    error, request_id = error.body, error.request_id
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    assert error["request_id"] == request_id


def test_a_stream_that_waits_gets_pings(faulty_models: Service) -> None:
    body = request_fields("one two", model="reading", stream=True)
    del body["extra_body"]
    data = json.dumps(body).encode()
    head = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", faulty_models.port), timeout=30) as line:
        line.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        lines = line.makefile("rb")
        pings = 0
        while pings < 3:
            read = lines.readline()
            assert read and not read.startswith(b":")
            pings += read == b"event: ping\n"
        Path(faulty_models.folder / "read").touch()
        rest = lines.read()
    # The message starts when its prompt is counted.
    start = json.loads(rest.partition(b"event: message_start\ndata: ")[2].splitlines()[0])
    assert start["message"]["usage"]["input_tokens"] > 0
    assert rest.count(b'"text_delta"') >= 1 and b"event: message_stop" in rest
