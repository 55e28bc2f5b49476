"""Questions that engines answer whole, when things go wrong; with fake engines."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fake_engine import write_model
from tests.profiles import Fakes
from tests.service import Service
from tests.waiting import eventually
from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import Message
from vllm_obtain.errors import ServiceError
from vllm_obtain.gateway.core.cancellation import CancelToken
from vllm_obtain.gateway.inference.one_shot import EngineCall
from vllm_obtain.models import ModelCatalog


class Engines:
    """A service with a model for each kind of trouble, and what its engines noted."""

    def __init__(self, service: Fakes) -> None:
        self.service = service
        self.crashed = service.folder / "crashed"
        self._log = service.folder / "log"
        service.add("crashes", crash_before_first_byte=True, crash_once=self.crashed)
        service.add("mumbles", garbage_chunk=True)
        service.add("refuses", error={"message": "no such thing", "code": 400})
        never = service.folder / "never"
        service.add("hangs", hang_before_first_byte=never, request_log=self._log)

    def ask(self, model: str) -> tuple[int, Any]:
        status, _, answer = self.service.request("/tokenize", {"model": model, "prompt": "a b c"})
        return status, json.loads(answer)

    @property
    def cancelled(self) -> int:
        return self._log.read_text().count("cancelled") if self._log.exists() else 0


@pytest.fixture(scope="module")
def engines(impatient: Fakes) -> Engines:
    return Engines(impatient)


def test_a_question_survives_the_end_of_its_engine(engines: Engines) -> None:
    assert engines.ask("crashes") == (200, tokens(3))
    assert engines.crashed.exists()
    restarts = {each["model"]: each["restarts"] for each in engines.service.status()["engines"]}
    assert restarts["crashes"] == 1


def test_an_answer_that_cannot_be_read_is_the_engines_fault(engines: Engines) -> None:
    status, answer = engines.ask("mumbles")
    assert (status, answer["error"]["code"]) == (502, "engine_failed")


def test_what_the_engine_refuses_is_refused(engines: Engines) -> None:
    status, answer = engines.ask("refuses")
    assert status == 400 and "no such thing" in answer["error"]["message"]


def test_a_question_has_until_request_timeout(engines: Engines) -> None:
    began = time.monotonic()
    status, answer = engines.ask("hangs")
    assert (status, answer["error"]["code"]) == (504, "request_timeout")
    assert 1.5 < time.monotonic() - began < 6
    eventually(lambda: engines.cancelled == 1)


def test_a_client_that_goes_takes_its_question_along(engines: Engines) -> None:
    before = engines.cancelled
    body = json.dumps({"model": "hangs", "prompt": "a"}).encode()
    head = f"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", engines.service.port)) as client:
        client.sendall(head.encode() + body)
        eventually(lambda: in_flight(engines.service, "hangs") == 1)
    eventually(lambda: engines.cancelled > before, timeout=2)
    eventually(lambda: in_flight(engines.service, "hangs") == 0)


class FullSupervisor:
    """A supervisor with no place for anybody, and a line to it."""

    def __init__(self) -> None:
        self.requests = 0

    @contextlib.contextmanager
    def lease_connection(self) -> Iterator[FullSupervisor]:
        yield self

    def send(self, _: Message) -> None:
        self.requests += 1

    def interrupt(self) -> None: ...

    def receive(self, _: float | None) -> Message:
        raise ServiceError("full", code="overloaded", status=429, retry_after=0.01)


@pytest.mark.parametrize("patient", [False, True])
def test_only_the_rest_of_a_request_waits_to_be_let_in(patient: bool, tmp_path: Path) -> None:
    full = FullSupervisor()
    made: Any = SimpleNamespace(supervisor=full, settings=Settings(request_timeout=0.2))
    model = ModelCatalog(write_model(tmp_path, "a").parent).find("a")
    ask: EngineCall[str] = EngineCall(made, model, CancelToken(), lambda *_: ("", 0))
    with pytest.raises(ServiceError, match="full"):
        ask(1, lambda _: ("/", {}), "text", patient)
    assert (full.requests > 5) == patient and full.requests > 0


def tokens(count: int) -> dict[str, Any]:
    ids = list(range(count))
    return {"count": count, "max_model_len": 2048, "tokens": ids, "token_strs": None}


def in_flight(service: Service, model: str) -> int:
    engines = service.status()["engines"]
    return sum(each["in_flight"] for each in engines if each["model"] == model)
