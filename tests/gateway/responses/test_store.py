"""What is kept of a response and what a next one makes of it, tools and all."""

from __future__ import annotations

import json
from typing import Any, cast

import msgspec
import pytest

from tests.gateway.responses.test_render import CALLS, renderer
from vllm_obtain.control.client import SupervisorClient, SupervisorLost
from vllm_obtain.control.messages import (
    DeleteResponse,
    LoadResponse,
    Message,
    ResponseStored,
    StoreResponse,
)
from vllm_obtain.errors import ResponseNotFound
from vllm_obtain.gateway.responses.items import FunctionCall
from vllm_obtain.gateway.responses.parse import parse
from vllm_obtain.gateway.responses.response_types import ResponseBody
from vllm_obtain.gateway.responses.store import StoredResponses
from vllm_obtain.gateway.responses.translate import to_chat
from vllm_obtain.protocol import messages
from vllm_obtain.supervisor.response_store import ResponseStore


class FakeSupervisor:
    """What a supervisor does with these messages, without the way there."""

    def __init__(self) -> None:
        self.kept = ResponseStore(2**20)
        self.lost = False

    def request(self, message: Message, _: type[Message]) -> Message:
        if self.lost:
            raise SupervisorLost("gone")
        if isinstance(message, StoreResponse):
            return ResponseStored(self.kept.store(message))
        if isinstance(message, DeleteResponse):
            return ResponseStored(self.kept.delete(message))
        assert isinstance(message, LoadResponse)
        return self.kept.load(message)


@pytest.fixture
def supervisor() -> FakeSupervisor:
    return FakeSupervisor()


@pytest.fixture
def responses(supervisor: FakeSupervisor) -> StoredResponses:
    return StoredResponses(cast(SupervisorClient, supervisor), "Bearer mine")


def respond(mine: StoredResponses, **fields: Any) -> ResponseBody:
    """Answer with reasoning, a text and two calls."""
    _, given = parse(json.dumps({"input": "Add.", **fields}).encode())
    items = mine.resolve(given)
    made = renderer(lambda response: mine.store(response, items), **fields).plain(CALLS)
    assert isinstance(made, ResponseBody)
    return made


def test_results_of_tools_go_on_from_the_calls(responses: StoredResponses) -> None:
    first = respond(responses)
    assert first.store is True
    results = [
        {"type": "function_call_output", "call_id": name, "output": "2"}
        for name in ("call_a", "call_b")
    ]
    asked, given = parse(json.dumps({"input": results}).encode())
    chat = to_chat(asked, [*responses.conversation(first.id), *responses.resolve(given)])
    user, turn, *told = chat.messages
    assert user == messages.UserMessage("Add.")
    assert isinstance(turn, messages.AssistantMessage)
    assert (turn.reasoning_content, turn.content) == ("let me see", "Well.")
    calls = [
        (call.id, call.function.name, call.function.arguments) for call in turn.tool_calls or ()
    ]
    assert calls == [("call_a", "add", '{"a":1}'), ("call_b", "sub", "{}")]
    assert told == [messages.ToolMessage("2", name) for name in ("call_a", "call_b")]


def test_an_item_is_found_by_its_id(responses: StoredResponses) -> None:
    response = respond(responses)
    call = response.output[2]
    _, given = parse(json.dumps({"input": [{"type": "item_reference", "id": call.id}]}).encode())
    (found,) = responses.resolve(given)
    assert isinstance(found, FunctionCall) and found == call


def test_the_response_is_found_as_it_was_told(responses: StoredResponses) -> None:
    response = respond(responses, metadata={"a": "b"})
    assert responses.show(response.id) == msgspec.json.encode(response)
    (given,) = responses.input_items(response.id)
    assert given.id is not None and given.id.startswith("msg_") and given.status == "completed"


def test_another_key_finds_nothing(responses: StoredResponses, supervisor: FakeSupervisor) -> None:
    response = respond(responses)
    other = StoredResponses(cast(SupervisorClient, supervisor), "Bearer yours")
    for look in (other.show, other.delete, other.conversation, other.input_items):
        with pytest.raises(ResponseNotFound):
            look(response.id)


def test_what_cannot_be_kept_is_answered_all_the_same(
    responses: StoredResponses, supervisor: FakeSupervisor
) -> None:
    assert respond(responses, instructions="x" * 2**20).store is False
    supervisor.lost = True
    response = respond(responses)
    assert response.store is False and response.status == "completed"
