"""The work for a request grows in proportion to its size, whichever of its fields is long.

Every list, object and string in the request types of all APIs is filled with N and with 2N
elements. A new field is covered as soon as its type has it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tests.gateway.request_fields import Field, fields_of
from vllm_obtain.chat.chat_format import derive
from vllm_obtain.chat.prepare import prepare_chat, prepare_completion
from vllm_obtain.errors import ServiceError
from vllm_obtain.gateway.anthropic import translate as anthropic
from vllm_obtain.gateway.anthropic.request_types import MessagesRequest, parse_messages
from vllm_obtain.gateway.ollama import translate as ollama
from vllm_obtain.gateway.ollama.request_types import ChatBody, EmbedBody, GenerateBody
from vllm_obtain.gateway.responses import request_types as responses
from vllm_obtain.gateway.responses.parse import parse as parse_response
from vllm_obtain.gateway.responses.translate import to_chat
from vllm_obtain.models.chat_tokens import ChatTokens
from vllm_obtain.protocol import embeddings, tokenize
from vllm_obtain.protocol.messages import MAX_MESSAGES, MAX_PARTS
from vllm_obtain.protocol.parsing import decode, parse_chat, parse_completion
from vllm_obtain.protocol.requests import (
    MAX_STOPS,
    ChatRequest,
    CompletionRequest,
    InferenceRequest,
    used_parameters,
)
from vllm_obtain.protocol.sampling_params import SamplingParams
from vllm_obtain.protocol.tools import MAX_TOOLS

# Elements of a list, and units of a string: N, of 2N.
ELEMENTS, UNITS = 1_000, 5_000
# Times below this many seconds of the processor are no problem and too short to compare.
NEGLIGIBLE = 0.02
FACTOR = 2.6
HI = [{"role": "user", "content": "hi"}]
FORMAT = derive(ChatTokens(), None)


def prepare(request: InferenceRequest) -> object:
    params = SamplingParams.resolve(used_parameters(request))
    if isinstance(request, ChatRequest):
        return prepare_chat(request, params, FORMAT, [])
    return prepare_completion(request, params, frozenset())


def respond(body: bytes) -> object:
    request, items = parse_response(body)
    return prepare(to_chat(request, items))  # type: ignore[arg-type]


@dataclass(frozen=True)
class API:
    """A route that takes a body.

    Args:
        type: of the body.
        base: a small valid body.
        work: what the gateway does with a body before it asks for a lease.
    """

    type: type
    base: dict[str, Any]
    work: Callable[[bytes], object]


_ollama_chat = msgspec.json.Decoder(ChatBody)
_ollama_generate = msgspec.json.Decoder(GenerateBody)
_ollama_embed = msgspec.json.Decoder(EmbedBody)
APIS = {
    "/v1/chat/completions": API(
        ChatRequest, {"messages": HI}, lambda body: prepare(parse_chat(body))
    ),
    "/v1/completions": API(
        CompletionRequest, {"prompt": "hi"}, lambda body: prepare(parse_completion(body))
    ),
    "/v1/messages": API(
        MessagesRequest,
        {"model": "m", "max_tokens": 5, "messages": HI},
        lambda body: prepare(anthropic.translate(parse_messages(body), True).request),
    ),
    "/v1/responses": API(responses.ResponsesRequest, {"input": "hi"}, respond),
    "/api/chat": API(
        ChatBody,
        {"model": "m", "messages": HI},
        lambda body: prepare(ollama.chat(decode(body, _ollama_chat))),
    ),
    "/api/generate": API(
        GenerateBody,
        {"model": "m", "prompt": "hi"},
        lambda body: prepare(ollama.generate(decode(body, _ollama_generate))),
    ),
    "/api/embed": API(
        EmbedBody,
        {"model": "m", "input": "hi"},
        lambda body: ollama.seconds(decode(body, _ollama_embed).keep_alive),
    ),
    "/v1/embeddings": API(embeddings.EmbeddingRequest, {"input": "hi"}, embeddings.parse_embedding),
    "/v1/rerank": API(
        embeddings.RerankRequest, {"query": "q", "documents": ["d"]}, embeddings.parse_rerank
    ),
    "/tokenize": API(tokenize.TokenizeRequest, {"prompt": "hi"}, tokenize.parse_tokenize),
    "/detokenize": API(tokenize.DetokenizeRequest, {"tokens": [1]}, tokenize.parse_detokenize),
}


def seconds(work: Callable[[bytes], object], body: bytes) -> float:
    """Processor time of the work for a body, which may be refused."""
    gc.disable()  # it would run at any time
    try:
        began = time.process_time()
        with contextlib.suppress(ServiceError):
            work(body)
        return time.process_time() - began
    finally:
        gc.enable()


def check(work: Callable[[bytes], object], field: Field, count: int) -> str:
    """Compare the work for N and 2N elements; returns the problem, if there is one."""
    body, twice = field.body(count), field.body(2 * count)
    if seconds(work, twice) < NEGLIGIBLE:
        return ""
    one = min(seconds(work, body) for _ in range(3))
    two = min(seconds(work, twice) for _ in range(3))
    if two < NEGLIGIBLE or two < FACTOR * one:
        return ""
    return f"{field.path}: {count} take {one:.3f} s, {2 * count} take {two:.3f} s"


@pytest.mark.parametrize("route", APIS)
def test_twice_as_much_takes_twice_as_long(route: str) -> None:
    api = APIS[route]
    found = fields_of(api.type, api.base)
    assert len(found) > 10
    problems = [
        check(api.work, field, ELEMENTS if field.path.endswith(("*", "{}")) else UNITS)
        for field in found
    ]
    assert not list(filter(None, problems))


def calls(count: int) -> list[dict[str, Any]]:
    function = {"name": "f", "arguments": "{}"}
    return [{"id": f"c{n}", "type": "function", "function": function} for n in range(count)]


def chat_with_results(count: int) -> dict[str, Any]:
    results = [{"role": "tool", "tool_call_id": f"c{n}", "content": "r"} for n in range(count)]
    asked = [{"role": "assistant", "tool_calls": calls(MAX_PARTS)[:count]}]
    return {"messages": [*HI, *asked, *results]}


def messages_with_results(count: int) -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    for n in range(count):
        use = {"type": "tool_use", "id": f"c{n}", "name": "f", "input": {}}
        turns.append({"role": "assistant", "content": [use]})
    for n in range(count):
        result = {"type": "tool_result", "tool_use_id": f"c{n}", "content": "r"}
        turns.append({"role": "user", "content": [result]})
    return {"model": "m", "max_tokens": 5, "messages": [*HI, *turns]}


def messages_of_one_role(role: str) -> Callable[[int], dict[str, Any]]:
    turn = {"role": role, "content": "some words " * 20}
    last = [*HI] if role == "assistant" else []
    return lambda count: {"model": "m", "max_tokens": 5, "messages": [turn] * count + last}


def responses_with_results(count: int) -> dict[str, Any]:
    asked = [
        {"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": "{}"}
        for n in range(count)
    ]
    results = [
        {"type": "function_call_output", "call_id": f"c{n}", "output": "r"} for n in range(count)
    ]
    return {"input": [*asked, *results]}


def ollama_with_results(named: bool) -> Callable[[int], dict[str, Any]]:
    call = {"function": {"name": "f", "arguments": {}}}
    result = {"role": "tool", "content": "r", **({"tool_name": "f"} if named else {})}
    return lambda count: {
        "model": "m",
        "messages": [{"role": "assistant", "tool_calls": [call]}] * count + [result] * count,
    }


CONVERSATIONS: list[tuple[str, str, Callable[[int], dict[str, Any]]]] = [
    ("calls and results", "/v1/chat/completions", chat_with_results),
    ("calls and results", "/v1/messages", messages_with_results),
    ("turns of the user", "/v1/messages", messages_of_one_role("user")),
    ("turns of the assistant", "/v1/messages", messages_of_one_role("assistant")),
    ("turns of the system", "/v1/messages", messages_of_one_role("system")),
    ("calls and results", "/v1/responses", responses_with_results),
    ("calls and named results", "/api/chat", ollama_with_results(True)),
    ("calls and results", "/api/chat", ollama_with_results(False)),
]


@pytest.mark.parametrize(("what", "route", "build"), CONVERSATIONS)
def test_twice_as_many_turns_take_twice_as_long(
    what: str, route: str, build: Callable[[int], dict[str, Any]]
) -> None:
    assert not check(APIS[route].work, Field(what, build), 4_500)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TOO_MANY: list[tuple[str, dict[str, Any], str, int]] = [
    ("/v1/chat/completions", {"messages": HI * (MAX_MESSAGES + 1)}, "messages", MAX_MESSAGES),
    ("/v1/chat/completions", {"tools": [TOOL] * (MAX_TOOLS + 1)}, "tools", MAX_TOOLS),
    ("/v1/chat/completions", {"stop": ["a"] * (MAX_STOPS + 1)}, "stop", MAX_STOPS),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2001}]},
        "messages[0].content",
        MAX_PARTS,
    ),
    ("/v1/messages", {"messages": HI * (MAX_MESSAGES + 1)}, "messages", MAX_MESSAGES),
    (
        "/v1/messages",
        {"tools": [{"name": "f", "input_schema": {}}] * (MAX_TOOLS + 1)},
        "tools",
        MAX_TOOLS,
    ),
    ("/v1/responses", {"input": HI * (MAX_MESSAGES + 1)}, "input", MAX_MESSAGES),
    ("/api/chat", {"messages": HI * (MAX_MESSAGES + 1)}, "messages", MAX_MESSAGES),
    ("/api/chat", {"tools": [TOOL] * (MAX_TOOLS + 1)}, "tools", MAX_TOOLS),
    ("/api/generate", {"keep_alive": "1" * 65}, "keep_alive", 64),
]


@pytest.mark.parametrize(("route", "more", "param", "limit"), TOO_MANY)
def test_a_limit_is_named(route: str, more: dict[str, Any], param: str, limit: int) -> None:
    api = APIS[route]
    with pytest.raises(ServiceError, match=f"<= {limit}") as caught:
        api.work(json.dumps({**api.base, **more}).encode())
    assert (caught.value.status, (caught.value.param or "").replace("...", "0")) == (400, param)


def test_the_limits_are_high_enough() -> None:
    body: dict[str, Any] = {"messages": HI * MAX_MESSAGES, "stop": ["a"] * MAX_STOPS}
    assert parse_chat(json.dumps(body).encode()).messages
    tools = [{"type": "function", "function": {"name": f"f{n}"}} for n in range(MAX_TOOLS)]
    assert parse_chat(json.dumps({"messages": HI, "tools": tools}).encode()).tools
