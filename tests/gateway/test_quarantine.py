"""A request that crashes its engine, through a whole service with two workers."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import Service
from tests.waiting import eventually

pytestmark = pytest.mark.slow

POISON = "poisonous words"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("quarantine")
    models = folder / "models"
    models.mkdir()
    write_model(
        models,
        "m",
        only_on="poison",
        crash_before_first_byte=True,
        crash_signal=signal.SIGSEGV,
        pace=0.05,
    )
    write_model(models, "slow", pace=0.2)
    env = {
        **ENVIRONMENT,
        "MODELS_DIR": str(models),
        "DEFAULT_MODEL": "m",
        "MAX_CONCURRENT_MODELS": "2",
        "WORKERS": "2",
        "API_KEYS": "",
    }
    with Service(["run.py", "--no-fetch"], folder, env) as server:
        yield server


def ask(service: Service, text: str, **more: Any) -> tuple[int, dict[str, str], Any]:
    body = {"model": "m", "prompt": text, "max_tokens": 20, "temperature": 1, **more}
    status, headers, answer = service.request("/v1/completions", body)
    return status, headers, json.loads(answer)


def test_a_request_without_tokens_is_quarantined_too(service: Service) -> None:
    body = {"model": "m", "prompt": "poison for the tokenizer"}
    for _ in range(2):
        status, _, answer = service.request("/tokenize", body)
        assert (status, json.loads(answer)["error"]["code"]) == (400, "request_quarantined")
    assert service.request("/tokenize", {"model": "m", "prompt": "fine"})[0] == 200
    _delete(service, "/v1/quarantine")


def test_it_is_refused_and_the_others_are_answered(service: Service) -> None:
    others = [f"innocent number {number} of many words to say" for number in range(4)]
    told: dict[str, tuple[int, dict[str, str], Any]] = {}
    threads = [
        threading.Thread(target=lambda text=text: told.update({text: ask(service, text)}))
        for text in (*others, POISON)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    status, headers, answer = told[POISON]
    assert (status, answer["error"]["code"]) == (400, "request_quarantined"), answer
    assert headers["x-should-retry"] == "false"
    for text in others:
        status, _, answer = told[text]
        # One that had tokens already cannot be asked again, and says so.
        assert status == 200 or answer["error"]["code"] == "engine_lost", answer
        assert ask(service, text)[0] == 200, "nobody else is blamed for good"

    before = _engines(service, "m")[0]["pid"]
    for stream in (False, True):  # both workers, in either form
        for _ in range(4):
            status, _, answer = ask(service, POISON, stream=stream)
            assert (status, answer["error"]["code"]) == (400, "request_quarantined")
    assert _engines(service, "m")[0]["pid"] == before, "no engine was asked"

    (listed,) = service.json("/v1/quarantine")["data"]
    assert (listed["model"], listed["engine"], listed["crashes"]) == ("m", "fake", 2)
    assert listed["status"] == 128 + signal.SIGSEGV and 0 < listed["seconds_left"] <= 3600
    logs = (service.folder / "logs").glob("*.log")
    everything = "".join(path.read_text() for path in logs)
    assert listed["id"] in everything and "poisonous" not in everything

    assert _delete(service, "/v1/quarantine") == {"cleared": 1}
    assert service.json("/v1/quarantine")["data"] == []


def test_a_kill_from_outside_makes_no_suspect(service: Service) -> None:
    text = "a b c d e f"
    for _ in range(2):
        asking = threading.Thread(target=ask, args=(service, text), kwargs={"model": "slow"})
        asking.start()
        engine = eventually(lambda: [e for e in _engines(service, "slow") if e["in_flight"]])
        os.kill(engine[0]["pid"], signal.SIGKILL)
        asking.join(30)
    assert ask(service, text, model="slow")[0] == 200
    assert service.json("/v1/quarantine")["data"] == []


def _engines(service: Service, model: str) -> list[Any]:
    return [each for each in service.status()["engines"] if each["model"] == model and each["pid"]]


def _delete(service: Service, path: str) -> Any:
    request = urllib.request.Request(service.url + path, method="DELETE")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())
