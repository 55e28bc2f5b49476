"""Requests whose engine or supervisor ends: as long as nothing has gone out, they begin anew."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import Service, eventually
from vllm_obtain.api import endurance
from vllm_obtain.api.endurance import Endurance
from vllm_obtain.api.replay import Replay
from vllm_obtain.chat.prepare import Prepared
from vllm_obtain.chat.prompted import FORMAT
from vllm_obtain.chat.reader import Reading
from vllm_obtain.engines.client import EngineLost
from vllm_obtain.protocol.events import Call, Delta, Event, Finish
from vllm_obtain.protocol.requests import CompletionRequest
from vllm_obtain.protocol.task import Task

WORDS = "one two three four five six"


@contextmanager
def serving(folder: Path, **switches: Any) -> Iterator[Service]:
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
def test_a_plain_answer_begins_anew_though_it_had_tokens(temperature: int, tmp_path: Path) -> None:
    once = str(tmp_path / "once")
    with serving(tmp_path, crash_after_tokens=3, crash_once=once) as service:
        assert Asking(service, temperature=temperature).text().split() == WORDS.split()
        assert service.engine()["restarts"] == 1
        sums = service.status()
        assert sums["requests_in_flight"] == 0


CALL = '<tool_call>\n{"name": "note", "arguments": {}}\n</tool_call>'


def _begun(*beginnings: str) -> tuple[Replay, list[str]]:
    """A replay of generations that break off behind these texts; the one after them is whole."""
    left = list(beginnings)

    def begin(held: ExitStack) -> Iterator[list[Event]]:
        yield []
        text = left.pop(0) if left else ""
        yield [Delta(text or CALL)]
        if text:
            lost = EngineLost("It ended.")
            lost.midway = True
            raise lost
        yield [Finish("stop")]

    task = Task(CompletionRequest(prompt="x"), "x")
    replay = Replay(
        Prepared(task, Reading(calls=FORMAT)), begin, Endurance(time.monotonic() + 9), "a"
    )
    return replay, left


def test_a_stream_of_which_nothing_was_told_begins_anew() -> None:
    replay, left = _begun('<tool_call>\n{"na', "<too")
    events = [event for events in replay.events() for event in events]
    assert [event.name for event in events if isinstance(event, Call) and event.name] == ["note"]
    assert isinstance(events[-1], Finish) and not left


def test_a_stream_that_was_heard_does_not() -> None:
    replay, left = _begun("Let me see.", "never asked")
    heard: list[Event] = []
    with pytest.raises(EngineLost):
        for events in replay.events():
            heard += events
    assert heard == [Delta("Let me see.")] and left == ["never asked"]


def _orphan(service: Service) -> None:
    """Kill the supervisor, and have the engine live on for a moment."""
    engine = psutil.Process(service.engine()["pid"])
    guard = engine.parent()
    assert guard is not None
    guard.suspend()
    os.kill(service.status()["supervisor"]["pid"], signal.SIGKILL)


def test_an_answer_that_is_there_is_given_though_nobody_can_keep_it(tmp_path: Path) -> None:
    log = tmp_path / "requests"
    with serving(tmp_path, pace=0.15, request_log=log) as service:
        asking = Asking(service, temperature=0)
        eventually(lambda: log.exists() and "arrived" in log.read_text())
        _orphan(service)
        assert asking.text().split() == WORDS.split()


def test_a_prompt_that_is_shorter_than_thought_without_a_supervisor(tmp_path: Path) -> None:
    go, log = tmp_path / "go", tmp_path / "requests"
    words = " ".join(f"{'w' * 50}{number}" for number in range(20))
    with serving(tmp_path, hang_before_first_byte=go, request_log=log) as service:
        asking = Asking(service, prompt=words, temperature=1)
        eventually(lambda: log.exists() and "arrived" in log.read_text())
        _orphan(service)
        go.touch()
        assert asking.text().split() == words.split()


def test_a_request_bears_so_many_ends_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(endurance.time, "sleep", pauses.append)
    bears = Endurance(time.monotonic() + 60)
    for process in range(1, endurance.MAX_PROCESSES):
        bears.outlast(EngineLost("It ended."), process, "a")
    with pytest.raises(EngineLost):
        bears.outlast(EngineLost("It ended."), endurance.MAX_PROCESSES, "a")
    assert pauses == [endurance.PAUSE] * (endurance.MAX_PROCESSES - 1), "another process each time"
    pauses.clear()
    bears = Endurance(time.monotonic() + 60)
    for _ in range(1, endurance.MAX_TRIES):
        bears.outlast(EngineLost("It ended."), 1.0, "a")
    with pytest.raises(EngineLost):
        bears.outlast(EngineLost("It ended."), 1.0, "a")
    assert pauses == [endurance.PAUSE * 2**tried for tried in range(endurance.MAX_TRIES - 1)]
