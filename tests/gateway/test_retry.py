"""Requests whose engine or supervisor ends: as long as nothing has gone out, they begin anew."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.profiles import Fakes
from tests.service import Service
from tests.waiting import eventually
from vllm_obtain.chat.output_parser import OutputParser
from vllm_obtain.chat.tool_prompt import FORMAT
from vllm_obtain.engines.connection import EngineConnectionLost
from vllm_obtain.errors import ClientDisconnected
from vllm_obtain.gateway.core.cancellation import CancelToken
from vllm_obtain.gateway.inference import retry
from vllm_obtain.gateway.inference.retry import RetryPolicy
from vllm_obtain.protocol.events import Event, Finish, TextDelta, ToolCallDelta

pytestmark = pytest.mark.slow

WORDS = "one two three four five six"


@contextmanager
def run_service(folder: Path, **switches: Any) -> Iterator[Service]:
    models = folder / "models"
    models.mkdir()
    write_model(models, "a", **switches)
    env = {**ENVIRONMENT, "MODELS_DIR": str(models)}
    with Service(["run.py", "--no-fetch"], folder, env) as service:
        yield service


class Asking(threading.Thread):
    """A plain request on its way."""

    def __init__(self, service: Service, **more: Any) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._body = {"model": "a", "prompt": WORDS, "max_tokens": 200, **more}
        self.told: tuple[int, bytes] = (0, b"")
        self.start()

    def run(self) -> None:
        status, _, answer = self._service.request("/v1/completions", self._body)
        self.told = status, answer

    def text(self) -> str:
        self.join(30)
        status, answer = self.told
        assert status == 200, answer
        return str(json.loads(answer)["choices"][0]["text"])


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_plain_answer_begins_anew_though_it_had_tokens(
    temperature: int, fakes: Fakes, tmp_path: Path
) -> None:
    name = fakes.add(f"once-{temperature}", crash_after_tokens=3, crash_once=tmp_path / "once")
    asking = Asking(fakes, model=name, temperature=temperature)
    assert asking.text().split() == WORDS.split()
    assert fakes.engine(name)["restarts"] == 1
    assert fakes.status()["requests_in_flight"] == 0


CALL = '<tool_call>\n{"name": "note", "arguments": {}}\n</tool_call>'


class Attempts:
    """Generations that break off behind these texts; the one after them is complete."""

    def __init__(self, *texts: str) -> None:
        self.left = list(texts)

    def start(self) -> Generator[list[Event], None, None]:
        yield []
        text = self.left.pop(0) if self.left else ""
        yield [TextDelta(text or CALL)]
        if text:
            raise EngineConnectionLost("It ended.")
        yield [Finish("stop")]

    def stream(self) -> Iterator[list[Event]]:
        policy = RetryPolicy(CancelToken(), "a")
        parts = policy.attempts(self.start, OutputParser(calls=FORMAT).parse)
        return itertools.chain.from_iterable(parts)


def test_a_stream_without_output_so_far_is_retried() -> None:
    attempts = Attempts('<tool_call>\n{"na', "<too")
    events = [event for events in attempts.stream() for event in events]
    assert [event.name for event in events if isinstance(event, ToolCallDelta) and event.name] == [
        "note"
    ]
    assert isinstance(events[-1], Finish) and not attempts.left


def test_a_stream_with_output_is_not_retried() -> None:
    attempts = Attempts("Let me see.", "never started")
    received: list[Event] = []
    with pytest.raises(EngineConnectionLost):
        for events in attempts.stream():
            received += events
    assert received == [TextDelta("Let me see.")] and attempts.left == ["never started"]


def _orphan(service: Service) -> None:
    """Kill the supervisor, and have the engine live on for a moment."""
    engine = psutil.Process(service.engine()["pid"])
    guard = engine.parent()
    assert guard is not None
    guard.suspend()
    os.kill(service.status()["supervisor"]["pid"], signal.SIGKILL)


def test_an_answer_that_is_there_is_given_though_nobody_can_keep_it(tmp_path: Path) -> None:
    log = tmp_path / "requests"
    with run_service(tmp_path, pace=0.15, request_log=log) as service:
        asking = Asking(service, temperature=0)
        eventually(lambda: log.exists() and "arrived" in log.read_text())
        _orphan(service)
        assert asking.text().split() == WORDS.split()


def test_a_prompt_that_is_shorter_than_thought_without_a_supervisor(tmp_path: Path) -> None:
    go, log = tmp_path / "go", tmp_path / "requests"
    words = " ".join(f"{'w' * 50}{number}" for number in range(20))
    with run_service(tmp_path, hang_before_first_byte=go, request_log=log) as service:
        asking = Asking(service, prompt=words, temperature=1)
        eventually(lambda: log.exists() and "arrived" in log.read_text())
        _orphan(service)
        go.touch()
        assert asking.text().split() == words.split()


def connection_lost(process: float) -> EngineConnectionLost:
    error = EngineConnectionLost("It ended.")
    error.process = process
    return error


def test_retries_are_limited_per_process_and_over_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    policy = RetryPolicy(CancelToken(), "a")
    for process in range(1, retry.MAX_PROCESSES):
        policy.wait(connection_lost(process))
    with pytest.raises(EngineConnectionLost):
        policy.wait(connection_lost(retry.MAX_PROCESSES))
    assert pauses == [retry.PAUSE] * (retry.MAX_PROCESSES - 1)
    pauses.clear()
    policy = RetryPolicy(CancelToken(), "a")
    for _ in range(1, retry.MAX_TRIES):
        policy.wait(connection_lost(1.0))
    with pytest.raises(EngineConnectionLost):
        policy.wait(connection_lost(1.0))
    assert pauses == [retry.PAUSE * 2**tried for tried in range(retry.MAX_TRIES - 1)]


def test_a_cancelled_request_is_not_retried() -> None:
    cancel = CancelToken()
    cancel.fire()
    with pytest.raises(ClientDisconnected):
        RetryPolicy(cancel, "a").wait(connection_lost(1.0))
