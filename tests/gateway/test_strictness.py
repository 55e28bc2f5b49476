"""STRICT_PARAMETERS: which parameters are rejected, and which are ignored and named."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import Service

CHAT = "/v1/chat/completions"
HI = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("lenient")
    models = folder / "models"
    models.mkdir()
    write_model(models, "a", hang_before_first_byte=str(folder / "go"))
    env = {
        **ENVIRONMENT,
        "MODELS_DIR": str(models),
        "STRICT_PARAMETERS": "false",
        "STREAM_PULSE": "0.1",
        "STREAM_PULSE_CHUNKS": "true",
    }
    with Service(["run.py", "--no-fetch"], folder, env) as server:
        yield server


def test_ignored_parameters_are_named(service: Service) -> None:
    (service.folder / "go").touch()
    body = {
        "messages": [{"role": "user", "content": "one two", "mood": 1}],
        "min_tokens": 3,
        "store": True,
        "reasoning_effort": "high",
        "no_such": {"a": 1},
        "temperature": 0,
    }
    status, headers, answer = service.request(CHAT, body)
    assert status == 200, answer
    ignored = "messages[0].mood, no_such, reasoning_effort, min_tokens, store"
    assert sorted(headers["x-ignored-parameters"].split(", ")) == sorted(ignored.split(", "))
    status, headers, _ = service.request(CHAT, {"messages": [HI]})
    assert status == 200 and "x-ignored-parameters" not in headers


def test_names_are_told_whatever_is_in_them(service: Service) -> None:
    (service.folder / "go").touch()
    body = {"messages": [HI], "a.b": 1, "": 1, "x\r\ny: z": 1, "日": 1, "l" * 9000: 1}
    status, headers, answer = service.request(CHAT, body)
    assert status == 200, answer
    texts = headers["x-ignored-parameters"].split(", ")
    assert sorted(texts) == sorted(["a.b", "", "x\\r\\ny: z", "\\u65e5", "l" * 100])


def test_what_is_wrong_stays_wrong(service: Service) -> None:
    for body in (
        {"messages": []},
        {"messages": [HI], "temperature": 7},
        {"messages": [HI], "tool_choice": "required"},
    ):
        status, _, answer = service.request(CHAT, body)
        assert status == 400, answer


def test_many_unknown_fields_are_not_all_named(service: Service) -> None:
    (service.folder / "go").touch()
    body = {"messages": [HI], **{f"unknown_{n}": n for n in range(40)}}
    status, headers, _ = service.request(CHAT, body)
    assert status == 200 and len(headers["x-ignored-parameters"].split(", ")) == 32


TEXT = {"type": "text", "text": "hi", "extra": 1}
TOOL = {"type": "function", "function": {"name": "f", "extra": 1}}
UNKNOWN: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": [HI], "extra": 1}, "extra"),
    (CHAT, {"messages": [{**HI, "extra": 1}] * 30}, "messages[0].extra"),
    (CHAT, {"messages": [{"role": "user", "content": [TEXT]}]}, "messages[0].content[0].extra"),
    (CHAT, {"messages": [HI], "tools": [TOOL]}, "tools[0].function.extra"),
    ("/v1/completions", {"prompt": "hi", "extra": 1}, "extra"),
    ("/v1/messages", {"model": "a", "max_tokens": 9, "messages": [HI], "extra": 1}, "extra"),
    ("/v1/responses", {"input": "hi", "extra": 1}, "extra"),
    ("/v1/responses", {"input": [{**HI, "extra": 1}]}, "input[0].extra"),
    ("/api/chat", {"model": "a", "messages": [HI], "stream": False, "extra": 1}, "extra"),
    ("/api/generate", {"model": "a", "prompt": "hi", "options": {"extra": 1}}, "options.extra"),
    ("/api/generate", {"model": "a", "prompt": "hi", "options": {"num_gpu": 1}}, "options.num_gpu"),
    ("/v1/responses", {"input": "hi", "reasoning": {"effort": "high"}}, "reasoning.effort"),
    ("/api/chat", {"messages": [HI], "stream": False, "think": "high"}, "think"),
]
ADVISORY = {"store": True, "verbosity": "low", "reasoning_effort": "high"}


@pytest.fixture(scope="module", params=["contract", "strict"])
def strictness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, str]]:
    folder = tmp_path_factory.mktemp(request.param)
    models = folder / "models"
    models.mkdir()
    write_model(models, "a")
    env = {**ENVIRONMENT, "MODELS_DIR": str(models), "STRICT_PARAMETERS": request.param}
    with Service(["run.py", "--no-fetch"], folder, env) as server:
        yield server, request.param


@pytest.mark.parametrize(("path", "body", "name"), UNKNOWN)
def test_unknown_and_harmless_fields(
    path: str, body: dict[str, Any], name: str, strictness: tuple[Service, str]
) -> None:
    service, mode = strictness
    status, headers, answer = service.request(path, {"model": "a", **body})
    if mode == "strict":
        assert status == 400 and name.encode() in answer
    else:
        assert (status, headers.get("x-ignored-parameters")) == (200, name), answer


def test_built_in_tools_are_named_once(strictness: tuple[Service, str]) -> None:
    body = {"input": "hi", "tools": [{"type": "mcp"}] * 50}
    status, headers, answer = strictness[0].request("/v1/responses", body)
    assert (status, headers.get("x-ignored-parameters")) == (200, "tools.mcp"), answer


def test_advisory_parameters(strictness: tuple[Service, str]) -> None:
    service, mode = strictness
    status, headers, answer = service.request(CHAT, {"messages": [HI], **ADVISORY})
    if mode == "strict":
        assert status == 400 and json.loads(answer)["error"]["param"] in ADVISORY
    else:
        assert status == 200, answer
        assert sorted(headers["x-ignored-parameters"].split(", ")) == sorted(ADVISORY)


def test_what_changes_the_completion_is_never_ignored(strictness: tuple[Service, str]) -> None:
    for fields in ({"min_tokens": 3}, {"web_search_options": {}}, {"modalities": ["audio"]}):
        status, _, answer = strictness[0].request(CHAT, {"messages": [HI], **fields})
        assert status == 400 and json.loads(answer)["error"]["param"] == next(iter(fields))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "hi", "stop": "x"}),
        ("/v1/messages", {"model": "a", "max_tokens": 9, "messages": [HI], "seed": 1}),
        ("/api/chat", {"model": "a", "messages": [HI], "temperature": 0}),
    ],
)
def test_parameters_of_other_apis_are_rejected(
    path: str, body: dict[str, Any], strictness: tuple[Service, str]
) -> None:
    status, _, answer = strictness[0].request(path, body)
    assert status == 400 and list(body)[-1].encode() in answer


def test_a_response_with_ignored_parameters_is_cached(strictness: tuple[Service, str]) -> None:
    service, mode = strictness
    body = {"messages": [HI], "temperature": 0}
    assert service.request(CHAT, body)[0] == 200
    status, headers, _ = service.request(CHAT, {**body, "extra": 1})
    if mode == "contract":
        assert (status, headers["x-cache"], headers["x-ignored-parameters"]) == (
            200,
            "hit",
            "extra",
        )


def test_a_stream_is_kept_alive_by_empty_pieces(service: Service) -> None:
    (service.folder / "go").unlink(missing_ok=True)
    line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    line.request("POST", CHAT, json.dumps({"messages": [HI], "stream": True}))
    events = []
    for text in line.getresponse():
        events.append(text)
        # The head of the stream is an empty piece too: wait for two more.
        if sum(b'"content":""' in one for one in events) == 3:
            (service.folder / "go").touch()
    line.close()
    assert not any(text.startswith(b":") for text in events)
    assert events[-2:] == [b"data: [DONE]\n", b"\n"]
