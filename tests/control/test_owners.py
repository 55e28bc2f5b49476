from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.supervisor.helpers import in_loop
from vllm_obtain.control import owners
from vllm_obtain.control.owners import Owners, start_time


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def start_of(process: subprocess.Popen[bytes]) -> float:
    start = start_time(process.pid)
    assert start is not None
    return start


def test_an_owner_lives_until_it_ends(sleeper: subprocess.Popen[bytes]) -> None:
    them = Owners()
    assert not them.alive()
    them.add(sleeper.pid, start_of(sleeper))
    assert them.alive()
    sleeper.kill()
    end = time.monotonic() + 5
    while start_time(sleeper.pid) is not None:
        assert time.monotonic() < end, "a zombie is gone"
    assert not them.alive()
    sleeper.wait()
    assert not them.alive()


def test_one_living_owner_is_enough(sleeper: subprocess.Popen[bytes]) -> None:
    them = Owners()
    them.add(sleeper.pid, start_of(sleeper))
    them.add(os.getpid(), start_time(os.getpid()) or 0)
    sleeper.kill()
    sleeper.wait()
    assert them.alive()


def test_another_process_with_the_same_pid_is_no_owner(sleeper: subprocess.Popen[bytes]) -> None:
    them = Owners()
    them.add(sleeper.pid, start_of(sleeper) - 5)
    them.add(sleeper.pid, 0.0)
    them.add(2**22 + 5, 0.0)
    assert not them.alive()


def test_a_clock_that_is_set_ends_nobody(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    them, later = Owners(), Owners()
    before = start_of(sleeper)
    them.add(sleeper.pid, before)
    if sys.platform == "linux":  # where a start time is counted from the start of the machine
        boot = psutil.boot_time() + 3600
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot)
        later.add(sleeper.pid, before)
        assert later.alive()
    else:
        real = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: real(self) + 3600)
    assert them.alive()


def test_a_stopped_owner_lives(sleeper: subprocess.Popen[bytes]) -> None:
    them = Owners()
    them.add(sleeper.pid, start_of(sleeper))
    sleeper.send_signal(signal.SIGSTOP)
    assert them.alive()


@in_loop
async def test_waiting_for_the_last_one() -> None:
    process = subprocess.Popen([sys.executable, "-ISc", "input()"], stdin=subprocess.PIPE)
    try:
        them = Owners()
        them.add(process.pid, start_of(process))
        waiting = asyncio.create_task(them.wait_until_empty())
        await asyncio.sleep(0)
        assert not waiting.done()
    finally:
        process.kill()
        process.wait()
    async with asyncio.timeout(owners.INTERVAL * 3):
        await waiting


@pytest.mark.parametrize("pid", [-1, -(2**63), 2**31, 2**63])
def test_a_number_that_is_no_pid_is_nobody(pid: int) -> None:
    assert start_time(pid) is None
    them = Owners()
    them.add(pid, 1.0)
    assert not them.alive()
