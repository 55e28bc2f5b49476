"""Ollama's requests as ours."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.gateway.ollama.request_types import ChatBody, GenerateBody
from vllm_obtain.gateway.ollama.translate import chat, generate, seconds
from vllm_obtain.protocol.messages import SystemMessage, UserMessage
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest, used_parameters
from vllm_obtain.protocol.tools import ObjectFormat, SchemaFormat

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": SCHEMA},
}


def chat_request(**more: Any) -> ChatRequest:
    return chat(msgspec.convert({"model": "m", "messages": HI, **more}, ChatBody))


def generate_request(**more: Any) -> ChatRequest | CompletionRequest:
    return generate(msgspec.convert({"model": "m", "prompt": "Hi", **more}, GenerateBody))


def test_a_bare_chat_demands_nothing_and_is_streamed() -> None:
    request = chat_request()
    assert used_parameters(request) == {}
    assert request.stream and request.model == "m"
    assert not chat_request(stream=False).stream


def test_tools_are_passed_on() -> None:
    (tool,) = chat_request(tools=[TOOL]).tools or []
    assert tool.function.name == "look" and tool.function.parameters == SCHEMA
    assert chat_request(tools=[]).tools is None


def test_formats() -> None:
    assert chat_request(format="json").response_format == ObjectFormat()
    held = chat_request(format=SCHEMA).response_format
    assert isinstance(held, SchemaFormat)
    assert held.json_schema.schema == SCHEMA and held.json_schema.strict
    assert chat_request(format="").response_format is None
    with pytest.raises(InvalidRequest, match="'format'"):
        chat_request(format="yaml")


@pytest.mark.parametrize(
    ("think", "effort"),
    [(False, "none"), (True, "medium"), ("low", "low"), ("high", "high"), ("max", "xhigh")],
)
def test_thinking_is_an_effort(think: object, effort: str) -> None:
    assert chat_request(think=think).reasoning_effort == effort


def test_log_probabilities() -> None:
    request = chat_request(logprobs=True, top_logprobs=3)
    assert (request.logprobs, request.top_logprobs) == (True, 3)
    assert used_parameters(chat_request(logprobs=False, top_logprobs=0)) == {}
    with pytest.raises(InvalidRequest, match="'top_logprobs'"):
        chat_request(top_logprobs=3)


def test_what_an_answer_does_at_the_end_of_the_context_cannot_be_changed() -> None:
    assert used_parameters(chat_request(shift=False, truncate=True)) == {}
    with pytest.raises(UnsupportedParameter, match="'shift'"):
        chat_request(shift=True)


def test_a_prompt_is_a_chat_of_one_turn() -> None:
    request = generate_request(system="Be brief.", options={"num_predict": 3})
    assert isinstance(request, ChatRequest)
    assert request.messages == [SystemMessage("Be brief."), UserMessage("Hi")]
    assert request.max_tokens == 3 and request.stream


def test_a_raw_prompt_is_a_text() -> None:
    request = generate_request(raw=True, stream=False, logprobs=True, top_logprobs=2, format=SCHEMA)
    assert isinstance(request, CompletionRequest)
    assert (request.prompt, request.stream, request.logprobs) == ("Hi", False, 2)
    assert request.structured_outputs is not None and request.structured_outputs.json == SCHEMA
    as_json = generate_request(raw=True, format="json")
    assert as_json.structured_outputs is not None and as_json.structured_outputs.json_object


@pytest.mark.parametrize(
    "more",
    [
        {"template": "{{ .Prompt }}"},
        {"context": [1, 2, 3]},
        {"suffix": "}"},
        {"raw": True, "system": "Be brief."},
        {"raw": True, "images": ["iVBORw0KGgo="]},
        {"raw": True, "think": True},
        {"raw": True, "logprobs": True, "top_logprobs": 6},
    ],
    ids=lambda more: "+".join(more),
)
def test_what_is_not_done_with_a_prompt_is_refused_by_name(more: dict[str, Any]) -> None:
    *_, name = more
    with pytest.raises(InvalidRequest) as raised:
        generate_request(**more)
    assert raised.value.param == name and f"'{name}'" in raised.value.message


def test_what_says_nothing_about_a_prompt_is_accepted() -> None:
    assert used_parameters(generate_request(template="", context=[], suffix="", raw=False)) == {}


@pytest.mark.parametrize(
    ("keep_alive", "found"),
    [
        (None, None),
        (0, 0),
        (300, 300),
        (-1, -1),
        ("0", 0),
        ("0s", 0),
        ("5m", 300),
        ("-1s", -1),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
    ],
)
def test_durations(keep_alive: Any, found: float | None) -> None:
    assert seconds(keep_alive) == found


@pytest.mark.parametrize("wrong", ["", "5", "m", "5 m", "forever", "1d", "5m!"])
def test_what_is_no_duration_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidRequest, match="'keep_alive'"):
        chat_request(keep_alive=wrong)
