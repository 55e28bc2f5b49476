"""vLLM's server process around a `vllm` that only spawns a child, as the real one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.waiting import eventually
from vllm_obtain.engines.vllm import server

MAIN = """
import multiprocessing, os, pathlib, signal

def child(note):
    pathlib.Path(note).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)

def main():
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=child, args=(os.environ["NOTE"],), name="EngineCore")
    process.start()
    process.join()
"""


SHARED = """
import multiprocessing, os, pathlib, signal, socket
from multiprocessing.shared_memory import SharedMemory

def child(semaphore, note):
    memory = SharedMemory(create=True, size=100)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.environ["VLLM_RPC_BASE_PATH"] + "/internal")
    pathlib.Path(note).write_text(f"{memory.name} sem.{semaphore._semlock.name[1:]}")
    signal.pause()

def main():
    context = multiprocessing.get_context("spawn")
    arguments = (context.Semaphore(), os.environ["NOTE"])
    process = context.Process(target=child, args=arguments, name="EngineCore")
    process.start()
    process.join()
"""
MEMORY = Path("/dev/shm")


def fake_vllm(folder: Path, main: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start the server process with a `vllm` of one function."""
    package = folder / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text(main)
    return subprocess.Popen(
        [sys.executable, server.__file__, "[]"],
        env={"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", **variables},
        stderr=subprocess.DEVNULL,
        process_group=0,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere shared memory has no folder")
def test_shared_memory_is_freed_when_the_process_group_is_killed(tmp_path: Path) -> None:
    note, sockets = tmp_path / "note", tmp_path / "sockets" / "one"
    front = fake_vllm(tmp_path, SHARED, NOTE=str(note), VLLM_RPC_BASE_PATH=str(sockets))
    try:
        names = eventually(lambda: note.exists() and note.read_text()).split()
        assert all((MEMORY / name).exists() for name in names)
        (tracker,) = [
            process
            for process in psutil.Process(front.pid).children()
            if "resource_tracker" in " ".join(process.cmdline())
        ]
    finally:
        os.killpg(front.pid, signal.SIGKILL)
        front.wait()
    eventually(lambda: not any((MEMORY / name).exists() for name in names))
    eventually(lambda: not tracker.is_running())
    # The next engine removes the sockets of those whose service was killed as well.
    assert list(sockets.iterdir()) != []
    server.sweep(sockets.with_name("two"))
    assert not sockets.exists() and sockets.with_name("two").is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a stopped process runs no watcher")
def test_a_stopped_child_ends_with_a_front_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "note"
    front = fake_vllm(tmp_path, MAIN, NOTE=str(note))
    try:
        child = psutil.Process(int(eventually(lambda: note.exists() and note.read_text())))
        eventually(lambda: child.status() == psutil.STATUS_STOPPED)
        front.kill()
        front.wait()
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    finally:
        front.kill()
        front.wait()
        if note.exists() and psutil.pid_exists(int(note.read_text())):
            psutil.Process(int(note.read_text())).kill()
