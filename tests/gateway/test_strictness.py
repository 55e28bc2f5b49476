"""STRICT_PARAMETERS=false: what cannot be honoured is ignored, and told."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

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
        {"messages": [HI], **{f"unknown_{n}": n for n in range(40)}},
    ):
        status, _, answer = service.request(CHAT, body)
        assert status == 400, answer


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
