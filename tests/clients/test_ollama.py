"""Ollama's own Python client against a real service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.clients.blocks import block, run
from tests.service import Service
from tests.test_docs import holds_words
from tests.waiting import eventually

MODEL = "smollm2-135m"
HI = [{"role": "user", "content": "Say hi."}]
FEW = {"num_predict": 6}


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[ollama.Client]:
    with ollama.Client(host=service.url) as made:
        yield made


def test_the_example(service: Service, tmp_path: Path) -> None:
    assert holds_words(run(block("Ollama clients", service), tmp_path))


def test_a_plain_chat(client: ollama.Client) -> None:
    answer = client.chat(MODEL, HI, options=FEW)
    assert answer.message.role == "assistant" and answer.message.content
    assert answer.model == MODEL and answer.done
    assert answer.done_reason in ("stop", "length")
    assert 0 < (answer.eval_count or 0) <= 6 and (answer.prompt_eval_count or 0) > 10
    parts = (answer.load_duration, answer.prompt_eval_duration, answer.eval_duration)
    assert all(part is not None and part > 0 for part in parts)
    assert sum(part or 0 for part in parts) <= (answer.total_duration or 0)
    assert answer.created_at is not None
    assert datetime.fromisoformat(answer.created_at).utcoffset() == timedelta(0)


def test_a_streamed_chat_says_the_same_as_a_plain_one(client: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 12}
    *pieces, last = client.chat(MODEL, HI, options=options, stream=True)
    assert len(pieces) > 1 and not any(piece.done for piece in pieces)
    assert last.done and last.eval_count and last.total_duration
    text = "".join(piece.message.content or "" for piece in pieces)
    assert text == client.chat(MODEL, HI, options=options).message.content


def test_a_stream_is_the_default_and_is_lines_of_json(service: Service) -> None:
    body = {"model": MODEL, "messages": HI, "options": FEW}
    status, headers, answer = service.request("/api/chat", body)
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    assert headers["x-accel-buffering"] == "no"
    lines = [json.loads(line) for line in answer.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


def test_generate(client: ollama.Client) -> None:
    plain = client.generate(MODEL, "Say hi.", system="Be brief.", options=FEW)
    assert plain.response and plain.done_reason in ("stop", "length")
    pieces = list(client.generate(MODEL, "Once upon a time", raw=True, options=FEW, stream=True))
    assert "".join(piece.response or "" for piece in pieces)
    assert pieces[-1].done_reason == "length" and pieces[-1].eval_count == 6
    # The text alone, without what a template puts around it.
    assert pieces[-1].prompt_eval_count == 4


def test_log_probabilities(client: ollama.Client) -> None:
    answer = client.chat(
        MODEL, HI, options={**FEW, "temperature": 0}, logprobs=True, top_logprobs=2
    )
    assert answer.logprobs is not None and len(answer.logprobs) == answer.eval_count
    assert all(len(entry.top_logprobs or ()) == 2 for entry in answer.logprobs)


def test_the_models(client: ollama.Client) -> None:
    (found,) = [model for model in client.list().models if model.model == f"{MODEL}:latest"]
    assert found.size == 98_362_432 and found.digest and found.modified_at is not None
    assert found.details is not None and found.details.quantization_level == "Q4_1"
    known = client.show(f"{MODEL}:latest")
    assert known.modelinfo is not None
    assert known.modelinfo["general.architecture"] == "llama"
    assert known.modelinfo["llama.context_length"] == 8192
    assert known.capabilities is not None and "completion" in known.capabilities


def test_a_tag_names_the_same_model(client: ollama.Client) -> None:
    answer = client.chat(f"{MODEL}:latest", HI, options=FEW)
    assert answer.model == f"{MODEL}:latest"
    with pytest.raises(ollama.ResponseError, match="does not exist"):
        client.chat(f"{MODEL}:q8", HI)


def test_loading_and_unloading_by_keep_alive(client: ollama.Client, service: Service) -> None:
    assert client.chat(MODEL, []).done_reason == "load"
    (running,) = client.ps().models
    assert running.model == f"{MODEL}:latest" and running.context_length
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"
    assert client.ps().models == []
    assert client.generate(MODEL, "Say hi.", options=FEW, keep_alive=0).response
    eventually(lambda: not client.ps().models)
    assert client.generate(MODEL, "", keep_alive="5m").done_reason == "load"
    assert len(client.ps().models) == 1


WRONG: dict[str, tuple[Callable[[ollama.Client], Any], int, str]] = {
    "no such model": (lambda c: c.chat("nope", HI), 404, "'nope' does not exist"),
    "show no such model": (lambda c: c.show("nope"), 404, "'nope' does not exist"),
    "too large a context": (
        lambda c: c.chat(MODEL, HI, options={"num_ctx": 10**9}),
        400,
        "'options.num_ctx'",
    ),
    "in a stream": (
        lambda c: list(c.chat(MODEL, HI, options={"mirostat": 2}, stream=True)),
        400,
        "'options.mirostat'",
    ),
    "an image": (
        lambda c: c.generate(MODEL, "What is it?", images=[b"\x89PNG\r\n\x1a\n" + bytes(16)]),
        400,
        "does not accept images",
    ),
    "too long a prompt": (lambda c: c.generate(MODEL, "word " * 20_000), 400, "context"),
    "pull": (lambda c: c.pull("llama3"), 404, "'llama3'"),
    "pull in a stream": (lambda c: list(c.pull("llama3", stream=True)), 404, "'llama3'"),
    "pull unchecked": (lambda c: c.pull(MODEL, insecure=True), 400, "'insecure'"),
    "delete": (lambda c: c.delete("nope"), 404, "'nope' does not exist"),
    "create": (lambda c: c.create("mine", from_=MODEL), 404, "MODELS_DIR"),
    "copy": (lambda c: c.copy(MODEL, "mine"), 404, "MODELS_DIR"),
    "push": (lambda c: c.push(MODEL), 404, "MODELS_DIR"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_say_what_is_wrong(client: ollama.Client, case: str) -> None:
    ask, status, told = WRONG[case]
    with pytest.raises(ollama.ResponseError) as raised:
        ask(client)
    assert raised.value.status_code == status
    assert told in raised.value.error


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/api/chat", None, 405), ("/api/chat", b"{", 400), ("/api/nothing", None, 404)],
)
def test_every_error_below_api_has_ollamas_shape(
    service: Service, path: str, body: Any, status: int
) -> None:
    got, headers, answer = service.request(path, body)
    assert got == status and headers["content-type"] == "application/json"
    assert list(json.loads(answer)) == ["error"]


def test_who_looks_for_an_ollama_finds_one(service: Service) -> None:
    status, headers, answer = service.request("/")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    assert b"Ollama is running" in answer
    version = service.json("/api/version")["version"]
    assert [int(part) for part in version.split(".")] > [0, 6, 4]


def test_a_tool_is_called(client: ollama.Client) -> None:
    city = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}}
    weather = {"name": "get_weather", "parameters": {**city, "required": ["city"]}}
    tools = [{"type": "function", "function": weather}]
    options = {"num_predict": 60, "temperature": 0}
    talk = [{"role": "user", "content": "How is the weather in Rome?"}]
    plain = client.chat(MODEL, talk, tools=tools, options=options).message
    streamed = list(client.chat(MODEL, talk, tools=tools, options=options, stream=True))
    text = "".join(part.message.content or "" for part in streamed)
    calls = [call for part in streamed for call in part.message.tool_calls or []]
    assert (plain.content or "", list(plain.tool_calls or [])) == (text, calls)
    assert text or calls, "it may call, and must say something"


def test_an_answer_keeps_to_a_format(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    answer = client.chat(MODEL, HI, format={**schema, "additionalProperties": False})
    assert isinstance(json.loads(answer.message.content or "")["ok"], bool)


def test_what_a_model_can_do(client: ollama.Client) -> None:
    assert client.show(MODEL).capabilities == ["completion", "tools"]
    # It does not reason, and does without.
    assert client.chat(MODEL, HI, think="high", options=FEW).message.content
