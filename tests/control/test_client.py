"""Finding, starting and replacing the supervisor, and talking to it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import acquire_message, descriptors, is_alive
from tests.supervisor.instance import Instance, wait_until_gone
from tests.waiting import eventually
from vllm_obtain.control.client import ControlConnection, SupervisorClient, SupervisorLost
from vllm_obtain.control.messages import (
    LeaseGranted,
    LoadModel,
    LoadStatus,
    ReleaseLease,
    Status,
    StatusReply,
)
from vllm_obtain.errors import ServiceError

Make = Callable[..., Instance]


def test_many_workers_start_one_supervisor(instances: Make) -> None:
    it = instances()
    pids: list[int] = []

    def work() -> None:
        worker = SupervisorClient(it.settings, os.getpid())
        worker.ensure_running(replace=True)
        pids.append(worker.request(Status(), StatusReply).pid)

    workers = [threading.Thread(target=work) for _ in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert pids == [it.status().pid] * 5


def test_one_that_was_killed_is_started_again(instances: Make, models: Path) -> None:
    write_model(models, "a")
    it = instances()
    first = it.start()
    engine = it.load("a").pid
    os.kill(first, signal.SIGKILL)
    wait_until_gone(first, engine)
    # Its last thread may still hold the socket for a moment.
    eventually(lambda: not listens(it.folder / "control.sock"))
    with it.supervisor.connection() as line:
        assert line.request(acquire_message("a"), LeaseGranted, 30).model == "a"
    assert it.status().pid != first
    assert [path.name for path in it.folder.glob("e*.pid")] == [f"e{it.status().pid}-1.pid"], (
        "what was left is swept away"
    )


def test_one_that_runs_other_code_or_settings_is_replaced(instances: Make, models: Path) -> None:
    write_model(models, "a")
    it = instances()
    first, engine = it.start(), it.load("a").pid
    other = SupervisorClient(
        it.settings.model_copy(update={"max_concurrent_models": 3}), os.getpid()
    )
    other.ensure_running()
    assert it.status().pid == first, "a worker that lives keeps to what runs"
    other.ensure_running(replace=True)
    second = it.status().pid
    assert second != first
    assert not is_alive(first)
    assert not is_alive(engine)
    other.ensure_running(replace=True)
    assert it.status().pid == second, "the settings came through: it is the one that was wanted"


def test_one_that_speaks_another_language_is_replaced(instances: Make) -> None:
    it = instances()
    it.start()
    it.stop()
    old = _Stranger(it.folder / "control.sock")
    it.supervisor.ensure_running(replace=True)
    assert it.status().pid != os.getpid()
    old.close()


def test_a_supervisor_that_cannot_be_started(
    instances: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = instances()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SupervisorLost) as caught:
        it.supervisor.connection()
    assert caught.value.status == 503
    assert caught.value.code == "supervisor_unavailable"


def test_talking_over_a_line(instances: Make, models: Path, tmp_path: Path) -> None:
    write_model(models, "a", slow_start=tmp_path / "never")
    it = instances()
    it.start()
    with it.supervisor.connection() as line, pytest.raises(TimeoutError):
        line.request(LoadModel("a", True), LoadStatus, 0.05)
    with it.supervisor.connection() as line, pytest.raises(ServiceError, match="does not exist"):
        line.request(LoadModel("nothing", True), LoadStatus, 5)
    with (
        it.supervisor.connection() as line,
        pytest.raises(ConnectionError, match="unexpected reply"),
    ):
        line.request(Status(), LoadStatus, 5)
    with pytest.raises(SupervisorLost):
        it.supervisor.request(LoadModel("a", True), LoadStatus, 0.05)


def test_a_question_is_asked_again_when_the_supervisor_ends_under_it(
    instances: Make, models: Path, tmp_path: Path
) -> None:
    write_model(models, "a", slow_start=tmp_path / "go")
    it = instances()
    pid = it.start()
    told: list[LoadStatus] = []
    asking = threading.Thread(
        target=lambda: told.append(it.supervisor.request(LoadModel("a", True), LoadStatus, 30))
    )
    asking.start()
    eventually(lambda: any(engine.pid for engine in it.status().engines))
    os.kill(pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    asking.join(30)
    assert [done.state for done in told] == ["ready"]
    assert it.status().pid != pid


def test_interrupting_a_line_ends_its_wait(instances: Make, models: Path, tmp_path: Path) -> None:
    write_model(models, "a", slow_start=tmp_path / "never")
    it = instances()
    it.start()
    line = it.supervisor.connection()
    ends: list[BaseException] = []

    def wait() -> None:
        try:
            line.request(acquire_message("a"), LeaseGranted)
        except OSError as error:
            ends.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: it.status().in_flight == 1)
    line.interrupt()
    waiting.join(5)
    line.close()
    assert len(ends) == 1
    eventually(lambda: it.status().in_flight == 0)


def test_a_line_serves_one_lease_after_another(instances: Make, models: Path) -> None:
    write_model(models, "a")
    it = instances()
    it.start()

    def lease() -> socket.socket:
        with it.supervisor.lease_connection() as line:
            line.request(acquire_message("a"), LeaseGranted, 30)
            line.send(ReleaseLease("stop"))
        return line.socket

    first = lease()
    assert lease() is first, "the same connection"
    assert it.status().in_flight == 0
    with pytest.raises(ZeroDivisionError), it.supervisor.lease_connection() as line:
        line.request(acquire_message("a"), LeaseGranted, 30)
        raise ZeroDivisionError
    eventually(lambda: it.status().in_flight == 0)
    second = lease()
    assert second is not first, "one that ended badly is closed, which gives back its lease"
    with it.supervisor.lease_connection() as line:
        line.request(acquire_message("a"), LeaseGranted, 30)
        line.interrupt()
    third = lease()
    assert third is not second, "one that was interrupted is of no use"
    with it.supervisor.lease_connection() as line:
        line.request(acquire_message("a"), LeaseGranted, 30)
        line.close()
    assert lease() is not third, "nor is one that was closed"


def test_lines_of_a_dead_supervisor_are_not_used(instances: Make, models: Path) -> None:
    write_model(models, "a")
    it = instances()
    pid = it.start()
    with it.supervisor.lease_connection() as line:
        line.request(acquire_message("a"), LeaseGranted, 30)
        line.send(ReleaseLease("stop"))
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    eventually(lambda: not listens(it.folder / "control.sock"))
    with it.supervisor.lease_connection() as line:
        assert line.request(acquire_message("a"), LeaseGranted, 30).model == "a"


def test_no_descriptor_is_left(instances: Make, models: Path) -> None:
    write_model(models, "a")
    it = instances()
    it.start()
    it.load("a")
    before = descriptors()
    for _ in range(200):
        with ControlConnection(it.folder / "control.sock") as line:
            line.request(acquire_message("a"), LeaseGranted, 30)
    assert descriptors() == before
    eventually(lambda: it.status().in_flight == 0)


def listens(path: Path) -> bool:
    """Whether somebody takes connections."""
    try:
        ControlConnection(path).close()
    except OSError:
        return False
    return True


class _Stranger:
    """Something that listens on the control socket and hangs up on everybody."""

    def __init__(self, path: Path) -> None:
        import socket

        path.parent.mkdir(parents=True, exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        try:
            while True:
                client, _ = self._socket.accept()
                client.sendall(b"\0\0\0\1\xff")
                client.close()
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()
