"""Processes that are blocked or stopped are replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import Service
from tests.waiting import eventually
from vllm_obtain.control import heartbeat as module
from vllm_obtain.control.client import SupervisorClient
from vllm_obtain.control.heartbeat import (
    LoopWatchdog,
    SupervisorHeartbeat,
    WorkerHeartbeats,
    report_stacks,
)
from vllm_obtain.control.owners import start_time

HEAD = """
import pathlib, sys, time
from vllm_obtain.control.heartbeat import LoopWatchdog
watchdog = LoopWatchdog(pathlib.Path(sys.argv[1]), 0.5)
watchdog.beat()
"""
BLOCKED = (
    HEAD
    + """
def wait_forever():
    time.sleep(60)
wait_forever()
"""
)
BEATING = (
    HEAD
    + """
for _ in range(15):
    time.sleep(0.1)
    watchdog.beat()
"""
)


def test_a_blocked_process_ends_and_its_stacks_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = subprocess.Popen([sys.executable, "-c", BLOCKED, str(tmp_path)])
    assert process.wait(20) == 1
    for _ in range(2):
        report_stacks(tmp_path)
    (line,) = [each for each in caplog.records if "blocked" in each.getMessage()]
    context = cast(dict[str, object], line.__dict__["context"])
    assert context["blocked_pid"] == process.pid
    assert "in wait_forever" in str(context["stacks"])
    assert not list(tmp_path.iterdir())


def test_a_process_that_beats_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    subprocess.run([sys.executable, "-c", BEATING, str(tmp_path)], check=True, timeout=20)
    report_stacks(tmp_path)
    assert not caplog.records, "nothing was written"
    assert not list(tmp_path.iterdir())


def test_a_watchdog_that_is_off_writes_nothing(tmp_path: Path) -> None:
    watchdog = LoopWatchdog(tmp_path, 0)
    watchdog.beat()
    watchdog.close()
    assert not list(tmp_path.iterdir())


class _Client:
    """A client whose supervisor replies or not."""

    def __init__(self, pid: int) -> None:
        self.pid: int | None = pid
        self.starts = 0

    def ping(self, timeout: float) -> int | None:  # noqa: ARG002 - the signature of the client
        return self.pid

    def ensure_running(self) -> None:
        self.starts += 1


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(60)"]) as started:
        yield started
        started.kill()


def test_a_silent_supervisor_is_replaced_after_the_limit(process: subprocess.Popen[bytes]) -> None:
    client = _Client(process.pid)
    watch = SupervisorHeartbeat(cast(SupervisorClient, client), 5.0, _Clock())
    watch.check()
    client.pid = None
    for _ in range(4):
        watch.check()
    assert process.poll() is None and client.starts == 0
    client.pid = process.pid
    watch.check()
    client.pid = None
    for _ in range(5):
        watch.check()
    assert process.wait(5) == -signal.SIGKILL
    assert client.starts == 1


def test_a_gap_in_this_process_is_no_silence(process: subprocess.Popen[bytes]) -> None:
    """A worker that was stopped itself must not blame the supervisor."""
    clock = _Clock()
    client = _Client(process.pid)
    watch = SupervisorHeartbeat(cast(SupervisorClient, client), 5.0, clock)
    watch.check()

    def slow_ping(timeout: float) -> None:
        clock.now += 600

    client.ping = slow_ping  # type: ignore[method-assign,assignment]
    watch.check()
    assert watch.silence == 2 * module.INTERVAL
    process.kill()
    process.wait()
    watch.check()
    assert watch.silence == 0, "it has ended"


def test_a_worker_is_ended_when_it_is_silent_too_long(process: subprocess.Popen[bytes]) -> None:
    clock = _Clock()
    workers = WorkerHeartbeats(5.0, clock)
    workers.note(process.pid)
    clock.now += 3600  # the supervisor itself was stopped
    for _ in range(5):
        clock.now += 1
        workers.check()
    workers.note(process.pid)
    for _ in range(8):
        clock.now += 1
        workers.check()
    assert process.poll() is None
    clock.now += 1
    workers.check()
    assert process.wait(5) == -signal.SIGKILL


def test_a_pid_that_is_reused_is_not_ended(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock()
    workers = WorkerHeartbeats(1.0, clock)
    workers.note(process.pid)
    monkeypatch.setattr(module, "start_time", lambda _: 1.0)
    for _ in range(20):
        clock.now += 1
        workers.check()
    assert process.poll() is None


def service_in(folder: Path) -> Service:
    """A service whose processes may be silent for two seconds."""
    models = folder / "models"
    models.mkdir()
    write_model(models, "fine")
    env = {
        **ENVIRONMENT,
        "MODELS_DIR": str(models),
        "DEFAULT_MODEL": "fine",
        "HEARTBEAT_SECONDS": "2",
    }
    return Service(["run.py", "--no-fetch"], folder, env)


def test_a_worker_that_is_stopped_is_replaced(tmp_path: Path) -> None:
    with service_in(tmp_path) as service:
        first = service.status()["gateway"]["pid"]
        os.kill(first, signal.SIGSTOP)
        eventually(lambda: start_time(first) is None)
        eventually(lambda: service.status()["gateway"]["pid"] != first)
        assert service.chat()["usage"]["completion_tokens"] > 0
        (line,) = [e for e in service.logged("errors.log") if e["event"] == "worker replaced"]
        assert line["silent_pid"] == first


def test_a_supervisor_that_is_stopped_is_replaced(tmp_path: Path) -> None:
    with service_in(tmp_path) as service:
        first = service.status()["supervisor"]["pid"]
        service.chat()
        os.kill(first, signal.SIGSTOP)
        assert service.request("/health", timeout=1)[0] == 200
        began = time.monotonic()
        assert service.chat()["usage"]["completion_tokens"] > 0
        assert time.monotonic() - began < 15
        assert service.status()["supervisor"]["pid"] != first
        assert start_time(first) is None
        eventually(
            lambda: any(e["event"] == "supervisor replaced" for e in service.logged("errors.log"))
        )
