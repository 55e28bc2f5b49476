"""vLLM's server process around a `vllm` that only spawns a child, as the real one does."""

from __future__ import annotations

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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a stopped process runs no watcher")
def test_a_stopped_child_ends_with_a_front_that_is_killed(tmp_path: Path) -> None:
    package = tmp_path / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text(MAIN)
    note = tmp_path / "note"
    front = subprocess.Popen(
        [sys.executable, server.__file__, "[]"],
        env={"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1", "NOTE": str(note)},
        stderr=subprocess.DEVNULL,
    )
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
