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

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import Service, eventually
from vllm_obtain.api.ask import Ask
from vllm_obtain.api.cancel import Cancel
from vllm_obtain.catalogue import Catalogue
from vllm_obtain.errors import ServiceError
from vllm_obtain.settings import Settings


class Fakes:
    """A service with a model for each kind of trouble, and what its engines noted."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service = service
        self.crashed = folder / "crashed"
        self._log = folder / "log"

    def ask(self, model: str) -> tuple[int, Any]:
        status, _, answer = self.service.request("/tokenize", {"model": model, "prompt": "a b c"})
        return status, json.loads(answer)

    @property
    def cancelled(self) -> int:
        return self._log.read_text().count("cancelled") if self._log.exists() else 0


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fakes]:
    folder = tmp_path_factory.mktemp("fakes")
    models = folder / "models"
    models.mkdir()
    write_model(models, "first")
    write_model(models, "crashes", crash_before_first_byte=True, crash_once=str(folder / "crashed"))
    write_model(models, "mumbles", garbage_chunk=True)
    write_model(models, "refuses", error={"message": "no such thing", "code": 400})
    hang = str(folder / "never")
    write_model(models, "hangs", hang_before_first_byte=hang, request_log=str(folder / "log"))
    env = {
        **ENVIRONMENT,
        "MODELS_DIR": str(models),
        "DEFAULT_MODEL": "first",
        "REQUEST_TIMEOUT": "2",
    }
    with Service(["run.py", "--no-fetch"], folder, env) as service:
        yield Fakes(service, folder)


def test_a_question_survives_the_end_of_its_engine(fakes: Fakes) -> None:
    assert fakes.ask("crashes") == (200, tokens(3))
    assert fakes.crashed.exists()
    restarts = {each["model"]: each["restarts"] for each in fakes.service.status()["engines"]}
    assert restarts["crashes"] == 1


def test_an_answer_that_cannot_be_read_is_the_engines_fault(fakes: Fakes) -> None:
    status, answer = fakes.ask("mumbles")
    assert (status, answer["error"]["code"]) == (502, "engine_failed")


def test_what_the_engine_refuses_is_refused(fakes: Fakes) -> None:
    status, answer = fakes.ask("refuses")
    assert status == 400 and "no such thing" in answer["error"]["message"]


def test_a_question_has_until_request_timeout(fakes: Fakes) -> None:
    began = time.monotonic()
    status, answer = fakes.ask("hangs")
    assert (status, answer["error"]["code"]) == (504, "request_timeout")
    assert 1.5 < time.monotonic() - began < 6
    eventually(lambda: fakes.cancelled == 1)


def test_a_client_that_goes_takes_its_question_along(fakes: Fakes) -> None:
    before = fakes.cancelled
    body = json.dumps({"model": "hangs", "prompt": "a"}).encode()
    head = f"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", fakes.service.port)) as client:
        client.sendall(head.encode() + body)
        eventually(lambda: running(fakes.service, "hangs") == 1)
    eventually(lambda: fakes.cancelled > before, timeout=2)
    eventually(lambda: running(fakes.service, "hangs") == 0)


class Full:
    """A supervisor with no place for anybody, and a line to it."""

    def __init__(self) -> None:
        self.asked = 0

    @contextlib.contextmanager
    def lease_line(self) -> Iterator[Full]:
        yield self

    def ask(self, *_: Any) -> None:
        self.asked += 1
        raise ServiceError("full", code="overloaded", status=429, retry_after=0.01)


@pytest.mark.parametrize("patient", [False, True])
def test_only_the_rest_of_a_request_waits_to_be_let_in(patient: bool, tmp_path: Path) -> None:
    full = Full()
    made: Any = SimpleNamespace(supervisor=full, settings=Settings(request_timeout=0.2))
    model = Catalogue(write_model(tmp_path, "a").parent).find("a")
    ask: Ask[str] = Ask(made, model, Cancel(), lambda *_: ("", 0))
    with pytest.raises(ServiceError, match="full"):
        ask(1, lambda _: ("/", {}), patient)
    assert (full.asked > 5) == patient and full.asked > 0


def tokens(count: int) -> dict[str, Any]:
    ids = list(range(count))
    return {"count": count, "max_model_len": 2048, "tokens": ids, "token_strs": None}


def running(service: Service, model: str) -> int:
    engines = service.status()["engines"]
    return sum(each["in_flight"] for each in engines if each["model"] == model)
