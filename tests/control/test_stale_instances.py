"""What killed services left goes when another one starts, and nobody else's things do."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import Service
from tests.waiting import eventually
from vllm_obtain.control import runtime_dir, stale_instances
from vllm_obtain.control.owners import start_time

pytestmark = pytest.mark.slow

OLD = 1_000_000_000


@pytest.fixture
def base(runtime: Path) -> Iterator[Path]:
    yield runtime
    for left in runtime.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def create_dead_instance(base: Path, port: int, **files: str) -> Path:
    """The folder of a dead service."""
    folder = base / str(port)
    folder.mkdir()
    (folder.with_suffix(runtime_dir.START_LOCK)).touch()
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    os.utime(folder, (OLD, OLD))
    return folder


def test_a_dead_services_place_goes(base: Path) -> None:
    dead = create_dead_instance(
        base, 8001, service_pid="999999999 1.0", recycle="", e1_sock="", e1_pid="1"
    )
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(dead / runtime_dir.CONTROL))
    os.utime(dead, (OLD, OLD))
    create_dead_instance(base, 8002).rmdir()
    own = create_dead_instance(base, 8003)
    assert stale_instances.clear(own) == [dead]
    assert sorted(path.name for path in base.iterdir()) == ["8003", "8003.lock"]


def test_an_engine_that_was_left_is_ended(base: Path) -> None:
    dead = create_dead_instance(base, 8001)
    engine = subprocess.Popen(
        [sys.executable, "-ISc", "import time; time.sleep(600)", str(dead / "e9-1.sock")],
        process_group=0,
    )
    (dead / "e9-1.pid").write_text(str(engine.pid))
    os.utime(dead, (OLD, OLD))
    assert stale_instances.clear(base / "8002") == [dead]
    assert engine.wait(5) == -9


def test_who_lives_begins_or_is_somebody_else_is_left_alone(base: Path) -> None:
    me = os.getpid()
    serving = create_dead_instance(base, 8001, service_pid=f"{me} {start_time(me)}")
    begins = create_dead_instance(base, 8002)
    os.utime(begins)
    strange = create_dead_instance(base, 8003, notes_txt="mine")
    (base / "vllm").mkdir()
    starting, listening = create_dead_instance(base, 8004), create_dead_instance(base, 8005)
    with (
        starting.with_suffix(runtime_dir.START_LOCK).open() as lock,
        socket.socket(socket.AF_UNIX) as line,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        line.bind(str(listening / runtime_dir.CONTROL))
        line.listen()
        os.utime(listening, (OLD, OLD))
        assert stale_instances.clear(base / "8009") == []
    assert all(path.exists() for path in (serving, begins, starting, listening, base / "vllm"))
    assert [path.name for path in strange.iterdir()] == ["notes.txt"]


def test_the_lock_of_a_service_that_ended_goes_unless_somebody_starts(base: Path) -> None:
    lock = base / "8001.lock"
    lock.touch()
    (base / "8002").mkdir()
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        stale_instances.give_up(base / "8001")
        assert lock.exists()
    stale_instances.give_up(base / "8001")
    assert not lock.exists()


def test_after_a_kill_of_everything_the_next_service_clears_up(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    write_model(models, "a")
    env = {**ENVIRONMENT, "MODELS_DIR": str(models), "DEFAULT_MODEL": "a"}
    command = ["run.py", "--no-fetch"]
    first, second = (Service(command, tmp_path / name, env) for name in "ab")
    first.start()
    processes = first.processes()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert first.process is not None
    first.process.wait(10)
    eventually(lambda: not first.processes())
    lock = first.runtime.with_suffix(runtime_dir.START_LOCK)
    assert first.runtime.exists() and lock.exists()
    os.utime(first.runtime, (OLD, OLD))
    with second:
        eventually(lambda: not first.runtime.exists() and not lock.exists())
        second.signal(15)
        second.wait_until_gone(15)
