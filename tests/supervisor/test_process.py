"""Engine processes and their guards: how they end, whatever happens to whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.supervisor.helpers import in_loop, is_alive
from tests.waiting import wait_until
from vllm_obtain.engines.adapter import LaunchSpec
from vllm_obtain.supervisor.engine import process as module
from vllm_obtain.supervisor.engine.guard import _NICENESS
from vllm_obtain.supervisor.engine.process import EngineProcess

SLEEP = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); "
PARENT = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid)\n"


@contextlib.asynccontextmanager
async def run_python(runtime: Path, code: str, **env: str) -> AsyncIterator[EngineProcess]:
    """A process that runs a piece of Python."""
    process = EngineProcess("test", runtime / "e1.pid")
    command = [sys.executable, "-u", "-I", "-S", "-c", code]
    await process.start(LaunchSpec(command, env))
    try:
        yield process
    finally:
        await process.stop(0)


def guard_of(process: EngineProcess) -> int:
    assert process.pid is not None
    parent: int = psutil.Process(process.pid).ppid()
    assert parent != os.getpid()
    return parent


@in_loop
async def test_the_exit_status_and_the_last_lines(runtime: Path) -> None:
    code = "import os; [print('line', n) for n in range(100)]; print('x' * 5000); os._exit(7)"
    async with run_python(runtime, code) as process:
        assert await process.wait() == 7
        assert await process.wait() == 7
        assert process.tail[0] == "line 61"
        assert process.tail[-2:] == ["line 99", "x" * module.LINE_CHARACTERS]
        assert len(process.tail) == module.TAIL_LINES


@in_loop
async def test_a_guard_that_is_stopped_does_not_hide_the_end_of_its_engine(runtime: Path) -> None:
    async with run_python(runtime, f"print('up'); {SLEEP}") as process:
        await wait_until(lambda: process.tail == ["up"])
        guard, engine = guard_of(process), process.pid
        os.kill(guard, signal.SIGSTOP)
        assert engine is not None
        os.kill(engine, signal.SIGKILL)
        async with asyncio.timeout(10):
            assert await process.wait() < 0
        assert not is_alive(guard)


@in_loop
async def test_a_line_without_end_is_survived(runtime: Path) -> None:
    code = "import sys; sys.stdout.write('x' * 3_000_000 + '\\n'); print('\\xff last'); sys.exit(2)"
    async with run_python(runtime, code, PYTHONIOENCODING="utf-8") as process:
        assert await process.wait() == 2
        assert process.tail[-1].endswith("last")


@in_loop
async def test_a_signal_is_told_from_a_status(runtime: Path) -> None:
    async with run_python(runtime, "import os; os.kill(os.getpid(), 11)") as process:
        assert await process.wait() == 139


@in_loop
async def test_variables_reach_the_engine(runtime: Path) -> None:
    async with run_python(runtime, "import os; print(os.environ['OURS'])", OURS="here") as process:
        await process.wait()
        assert process.tail == ["here"]


def _autogroup(pid: int | str) -> int | None:
    """The niceness of a process's session: None where the kernel groups by other means, or none.

    The file is missing without autogrouping, and empty for a session that a control group holds.
    """
    try:
        words = Path(f"/proc/{pid}/autogroup").read_text().split()
    except OSError:
        return None
    return int(words[-1]) if words else None


@pytest.mark.skipif(sys.platform != "linux", reason="what niceness means differs elsewhere")
@in_loop
async def test_an_engine_gives_way_to_who_answers_its_clients(runtime: Path) -> None:
    async with run_python(runtime, SLEEP) as process:
        await wait_until(lambda: process.pid)
        assert psutil.Process(process.pid).nice() == min(19, os.nice(0) + _NICENESS)
        mine = os.sched_getscheduler(0)
        theirs = os.SCHED_BATCH if mine == os.SCHED_OTHER else mine
        assert os.sched_getscheduler(process.pid) == theirs
        if _autogroup("self") is not None:
            assert _autogroup(process.pid) == _NICENESS


@in_loop
async def test_a_program_that_is_not_there(runtime: Path) -> None:
    process = EngineProcess("test", runtime / "e1.pid")
    await process.start(LaunchSpec(["/no/such/program"]))
    assert await process.wait() == 1
    assert "No such file" in process.tail[-1]
    await process.stop()


@in_loop
async def test_stopping_asks_first(runtime: Path) -> None:
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(0)); print(1); signal.pause()"
    async with run_python(runtime, code) as process:
        await wait_until(lambda: process.tail)
        await process.stop()
        assert await process.wait() == 0


@in_loop
async def test_stopping_kills_what_does_not_listen_and_all_it_started(runtime: Path) -> None:
    async with run_python(runtime, DEAF + PARENT + SLEEP) as process:
        await wait_until(lambda: len(process.tail) == 2)
        child, pid = int(process.tail[1]), process.pid
        await process.stop(0.1)
        assert not is_alive(pid)
        await wait_until(lambda: not is_alive(child))


@in_loop
async def test_stopping_twice_at_once_and_after_the_end(runtime: Path) -> None:
    async with run_python(runtime, DEAF + SLEEP) as process:
        await wait_until(lambda: process.tail)
        pid = process.pid
        await asyncio.gather(process.stop(0.1), process.stop(0.05), process.stop(0.2))
        for _ in range(10):
            await process.stop()
        assert not is_alive(pid)


@in_loop
async def test_stopping_what_was_never_started(runtime: Path) -> None:
    await EngineProcess("test", runtime / "e1.pid").stop()


@in_loop
async def test_a_stopped_engine_is_killed(runtime: Path) -> None:
    async with run_python(runtime, SLEEP) as process:
        pid = await wait_until(lambda: process.pid)
        os.kill(pid, signal.SIGSTOP)
        await process.stop(0.05)
        assert not is_alive(pid)


@in_loop
async def test_a_stopped_guard_is_killed(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GUARD_GRACE", 0.1)
    async with run_python(runtime, PARENT + SLEEP) as process:
        await wait_until(lambda: process.tail)
        child, pid = int(process.tail[0]), process.pid
        os.kill(guard_of(process), signal.SIGSTOP)
        await process.stop(0.05)
        await wait_until(lambda: not is_alive(pid) and not is_alive(child))


@in_loop
async def test_a_killed_guard_takes_the_engine_and_its_children_along(runtime: Path) -> None:
    async with run_python(runtime, PARENT + SLEEP) as process:
        await wait_until(lambda: process.tail)
        child, pid = int(process.tail[0]), process.pid
        os.kill(guard_of(process), signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
        await wait_until(lambda: not is_alive(pid) and not is_alive(child))


@in_loop
async def test_an_engine_that_ends_takes_its_children_along(runtime: Path) -> None:
    async with run_python(runtime, PARENT) as process:
        assert await process.wait() == 0
        child = int(process.tail[0])
        await wait_until(lambda: not is_alive(child))


@in_loop
async def test_whoever_holds_the_pipe_open_delays_nobody(runtime: Path) -> None:
    run_away = PARENT.replace("])", "], start_new_session=True)")
    async with run_python(runtime, run_away) as process:
        async with asyncio.timeout(3):
            assert await process.wait() == 0
        os.kill(int(process.tail[0]), signal.SIGKILL)


@in_loop
async def test_the_pid_file_comes_and_goes(runtime: Path) -> None:
    async with run_python(runtime, SLEEP) as process:
        pid = await wait_until(lambda: process.pid)
        assert (runtime / "e1.pid").read_text() == str(pid)
        assert "time.sleep" in psutil.Process(pid).cmdline()[-1]
    assert not list(runtime.iterdir())


@in_loop
async def test_a_guard_that_cannot_note_the_pid_leaves_nothing(runtime: Path) -> None:
    before = children()
    process = EngineProcess("test", runtime / "no-such-folder" / "e1.pid")
    command = [sys.executable, "-u", "-I", "-S", "-c", DEAF + SLEEP]
    await process.start(LaunchSpec(command))
    await process.wait()
    assert "no-such-folder" in " ".join(process.tail)
    await wait_until(lambda: not children() - before)


@in_loop
async def test_cancelling_a_start_leaves_nothing(runtime: Path) -> None:
    before = children()
    for turns in range(4):
        process = EngineProcess("test", runtime / "e1.pid")
        command = [sys.executable, "-u", "-I", "-S", "-c", "print('up', flush=True);" + SLEEP]
        starting = asyncio.create_task(process.start(LaunchSpec(command)))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        await process.stop(0)
        assert not children() - before


def children() -> set[int]:
    """The processes that descend from the tests' own and run."""
    found = psutil.Process().children(recursive=True)
    return {each.pid for each in found if is_alive(each.pid)}
