"""What is kept of a response and what a next one makes of it, tools and all."""

from __future__ import annotations

import json
from typing import Any, cast

import msgspec
import pytest

from tests.api.responses.test_render import CALLS, renderer
from vllm_obtain.api.responses.asked import parse
from vllm_obtain.api.responses.items import FunctionCall
from vllm_obtain.api.responses.shapes import ResponseBody
from vllm_obtain.api.responses.store import Responses
from vllm_obtain.api.responses.translate import to_chat
from vllm_obtain.errors import ResponseNotFound
from vllm_obtain.messages import Fetch, Forget, Keep, Kept, Message
from vllm_obtain.protocol import conversation
from vllm_obtain.supervisor.client import Supervisor, SupervisorLost
from vllm_obtain.supervisor.kept import KeptResponses


class Desk:
    """What a supervisor does with these messages, without the way there."""

    def __init__(self) -> None:
        self.kept = KeptResponses(2**20)
        self.lost = False

    def ask(self, message: Message, _: type[Message]) -> Message:
        if self.lost:
            raise SupervisorLost("gone")
        if isinstance(message, Keep):
            return Kept(self.kept.keep(message))
        if isinstance(message, Forget):
            return Kept(self.kept.forget(message))
        assert isinstance(message, Fetch)
        return self.kept.fetch(message)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def mine(desk: Desk) -> Responses:
    return Responses(cast(Supervisor, desk), "Bearer mine")


def respond(mine: Responses, **fields: Any) -> ResponseBody:
    """Answer with reasoning, a text and two calls."""
    _, given = parse(json.dumps({"input": "Add.", **fields}).encode())
    items = mine.resolve(given)
    made = renderer(lambda response: mine.keep(response, items), **fields).plain(CALLS)
    assert isinstance(made, ResponseBody)
    return made


def test_results_of_tools_go_on_from_the_calls(mine: Responses) -> None:
    first = respond(mine)
    assert first.store is True
    results = [
        {"type": "function_call_output", "call_id": name, "output": "2"}
        for name in ("call_a", "call_b")
    ]
    asked, given = parse(json.dumps({"input": results}).encode())
    chat = to_chat(asked, [*mine.conversation(first.id), *mine.resolve(given)])
    user, turn, *told = chat.messages
    assert user == conversation.UserMessage("Add.")
    assert isinstance(turn, conversation.AssistantMessage)
    assert (turn.reasoning_content, turn.content) == ("let me see", "Well.")
    calls = [
        (call.id, call.function.name, call.function.arguments) for call in turn.tool_calls or ()
    ]
    assert calls == [("call_a", "add", '{"a":1}'), ("call_b", "sub", "{}")]
    assert told == [conversation.ToolMessage("2", name) for name in ("call_a", "call_b")]


def test_an_item_is_found_by_its_id(mine: Responses) -> None:
    made = respond(mine)
    call = made.output[2]
    _, given = parse(json.dumps({"input": [{"type": "item_reference", "id": call.id}]}).encode())
    (found,) = mine.resolve(given)
    assert isinstance(found, FunctionCall) and found == call


def test_the_response_is_found_as_it_was_told(mine: Responses) -> None:
    made = respond(mine, metadata={"a": "b"})
    assert mine.show(made.id) == msgspec.json.encode(made)
    (given,) = mine.input_items(made.id)
    assert given.id is not None and given.id.startswith("msg_") and given.status == "completed"


def test_another_key_finds_nothing(mine: Responses, desk: Desk) -> None:
    made = respond(mine)
    other = Responses(cast(Supervisor, desk), "Bearer yours")
    for look in (other.show, other.forget, other.conversation, other.input_items):
        with pytest.raises(ResponseNotFound):
            look(made.id)


def test_what_cannot_be_kept_is_answered_all_the_same(mine: Responses, desk: Desk) -> None:
    assert respond(mine, instructions="x" * 2**20).store is False
    desk.lost = True
    made = respond(mine)
    assert made.store is False and made.status == "completed"
