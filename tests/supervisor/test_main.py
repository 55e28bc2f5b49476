"""The life of a supervisor in a process of its own, and that nothing outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import acquire_message, is_alive
from tests.supervisor.instance import GONE, Instance, wait_until_gone
from tests.waiting import eventually
from vllm_obtain.control import runtime_dir
from vllm_obtain.control.messages import LeaseGranted

pytestmark = pytest.mark.slow

Make = Callable[..., Instance]


def guard_of(engine: int | None) -> int:
    parent: int = psutil.Process(engine).ppid()
    assert "guard.py" in " ".join(psutil.Process(parent).cmdline())
    return parent


def test_the_default_model_is_loaded_at_the_start(instances: Make, models: Path) -> None:
    write_model(models, "a")
    write_model(models, "b")
    it = instances(default_model="b")
    it.start()
    assert eventually(lambda: it.status().engines and it.engine("b").state == "ready")
    assert [engine.model for engine in it.status().engines] == ["b"]


def test_a_default_model_that_is_not_there_stops_nothing(instances: Make, models: Path) -> None:
    write_model(models, "a")
    it = instances(default_model="typo")
    it.start()
    assert it.load("a").state == "ready"
    assert any(line["event"] == "model not preloaded" for line in it.logged("errors.log"))


def test_a_crash_is_in_the_errors_log(instances: Make, models: Path) -> None:
    write_model(models, "a", print_at_start=["the last thing it said"])
    it = instances()
    it.start()
    first = it.load("a")
    os.kill(first.pid or 0, signal.SIGABRT)
    after = eventually(lambda: (now := it.engine("a")).pid != first.pid and now.pid and now)
    assert after.restarts == 1
    (crash,) = [line for line in it.logged("errors.log") if line["event"] == "engine crashed"]
    assert crash["reason"] == "engine exited: killed by SIGABRT (exit status 134)"
    assert crash["output"] == ["the last thing it said"]


def test_a_killed_supervisor_leaves_no_process(
    instances: Make, models: Path, tmp_path: Path
) -> None:
    write_model(models, "a", ignore_sigterm=True, grandchild=tmp_path / "pid")
    write_model(models, "b")
    write_model(models, "c", never_ready=True)
    it = instances(max_concurrent_models=3, default_model="a")
    supervisor = it.start()
    engines = [it.load("a").pid, it.load("b").pid]
    with it.held(acquire_message("c")):
        engines.append(eventually(lambda: len(it.status().engines) == 3 and it.engine("c").pid))
        child = int((tmp_path / "pid").read_text())
        assert all(map(is_alive, [*engines, child]))
        os.kill(engines[1] or 0, signal.SIGSTOP)
        os.kill(supervisor, signal.SIGKILL)
        wait_until_gone(supervisor, *engines, child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_killed_guard_leaves_no_process(instances: Make, models: Path) -> None:
    write_model(models, "a")
    it = instances()
    supervisor = it.start()
    engine = it.load("a").pid
    guard = guard_of(engine)
    os.kill(supervisor, signal.SIGSTOP)  # it shall not help
    os.kill(guard, signal.SIGKILL)
    wait_until_gone(engine)
    os.kill(supervisor, signal.SIGCONT)
    eventually(lambda: it.engine("a").restarts == 1)


def test_the_end_of_the_owner_is_the_end_of_all(instances: Make, models: Path) -> None:
    write_model(models, "a", ignore_sigterm=True)
    owner = subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(600)"])
    try:
        it = instances(owner=owner.pid)
        supervisor = it.start()
        engine = it.load("a").pid
    finally:
        owner.kill()
        owner.wait()
    wait_until_gone(supervisor, engine)
    eventually(lambda: not it.folder.exists(), 0.5)


def test_a_request_to_stop_and_a_signal_are_the_end_too(instances: Make, models: Path) -> None:
    write_model(models, "a")
    it = instances()
    for end in (it.stop, lambda: os.kill(it.status().pid, signal.SIGTERM)):
        supervisor = it.start()
        engine = it.load("a").pid
        end()
        wait_until_gone(supervisor, engine)
        assert not it.folder.exists()


def test_a_supervisor_that_lost_its_socket_ends(instances: Make, models: Path) -> None:
    write_model(models, "a")
    it = instances()
    first, engine = it.start(), it.load("a").pid
    (it.folder / runtime_dir.CONTROL).unlink()
    second = it.start()
    assert second != first
    wait_until_gone(first, engine)
    assert it.load("a").state == "ready", "the first one took nothing of the second one's along"


def test_two_instances_live_side_by_side(instances: Make, models: Path) -> None:
    write_model(models, "a")
    one, two = instances(), instances()
    assert one.start() != two.start()
    first, second = one.load("a").pid, two.load("a").pid
    with two.supervisor.connection() as line:
        line.request(acquire_message("a"), LeaseGranted, 5)
        one.stop()
        wait_until_gone(first, seconds=GONE)
        assert two.status().in_flight == 1
        assert two.engine("a").pid == second
