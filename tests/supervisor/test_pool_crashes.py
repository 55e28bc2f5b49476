"""Crashes of engines and their restarts, with real processes of the fake engine."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, in_loop, rig, turn
from tests.waiting import wait_until
from vllm_obtain.errors import EngineFailed, ModelNotFound
from vllm_obtain.supervisor.engine import engine as engine_module
from vllm_obtain.supervisor.engine.states import EngineState


@in_loop
async def test_a_crash_is_survived_by_those_who_wait(
    models: Path, runtime: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(models, "a", slots=1, print_at_start=["last words"])
    async with rig(models, runtime) as it:
        await it.lease("a")  # as if its worker never heard of the crash
        waiting = it.acquire_in_background("a")
        await wait_until(lambda: it.engine("a").users == 2)
        first = it.engine("a").pid
        assert first is not None
        os.kill(first, signal.SIGSEGV)
        lease = await waiting
        assert it.engine("a").pid != first
        assert it.engine("a").restarts == 1
        (crash,) = [line for line in caplog.records if line.getMessage() == "engine crashed"]
        assert crash.levelname == "ERROR"
        assert crash.context["reason"] == "engine exited: killed by SIGSEGV (exit status 139)"
        assert crash.context["output"] == ["last words"]
        lease.release(DONE)


@in_loop
async def test_an_idle_engine_that_ends_is_started_again(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        engine = await it.pool.load("a")
        first = engine.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await wait_until(lambda: engine.state is EngineState.READY and engine.pid != first)
        assert engine.restarts == 1


@in_loop
async def test_a_restart_nobody_waits_for_takes_no_place_that_is_wanted(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    write_model(models, "a")
    write_model(models, "b")
    write_model(models, "c", slow_start=tmp_path / "go")
    async with rig(models, runtime, max_concurrent_models=2) as it:
        crashing = await it.pool.load("a")
        third = it.acquire_in_background("c")
        await wait_until(lambda: it.pool.state("c") is EngineState.STARTING)
        second = it.acquire_in_background(
            "b"
        )  # is next, and may take the place of an engine that has crashed
        await turn()
        os.kill(crashing.pid or 0, signal.SIGKILL)
        await wait_until(lambda: crashing.restarts and it.pool._entries["a"].running_work)
        (tmp_path / "go").touch()
        leases = [await third, await second]
        await turn()
        assert it.pool.state("a") is EngineState.STOPPED
        assert it.pool.state("b") is it.pool.state("c") is EngineState.READY
        for lease in leases:
            lease.release(DONE)


@in_loop
async def test_a_crash_while_leaving_starts_nothing(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        lease = await it.lease("a")
        unloading = asyncio.create_task(it.pool.unload("a"))
        await wait_until(lambda: it.pool.state("a") is EngineState.DRAINING)
        os.kill(it.engine("a").pid or 0, signal.SIGKILL)
        assert await unloading is EngineState.STOPPED
        lease.release(DONE)
        await turn()
        assert it.pool.state("a") is EngineState.STOPPED
        assert it.engine("a").users == 0


@in_loop
async def test_crashes_are_paused_longer_and_longer(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    write_model(models, "b")
    async with rig(models, runtime) as it:
        engine = await it.pool.load("a")
        for _ in range(2):
            first = engine.pid
            os.kill(first or 0, signal.SIGKILL)
            await wait_until(lambda first=first: engine.pid not in (first, None), 5)
            await wait_until(lambda: engine.state is EngineState.READY)
        os.kill(engine.pid or 0, signal.SIGKILL)
        await wait_until(lambda: engine.state is EngineState.CRASHED)
        assert 1 < engine.backoff.remaining <= 2
        # A request waits for the same moment, and another model may take the place meanwhile.
        waiting = it.acquire_in_background("a")
        (await it.lease("b")).release(DONE)
        assert not waiting.done()
        waiting.cancel()


@in_loop
async def test_one_that_served_and_is_killed_from_outside_is_started_at_once(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "SETTLED", 0.0)
    write_model(models, "a")
    async with rig(models, runtime) as it:
        engine = await it.pool.load("a")
        for restarts in range(1, 5):
            os.kill(engine.pid or 0, signal.SIGKILL)
            await wait_until(lambda restarts=restarts: engine.restarts == restarts)
            assert engine.backoff.remaining == 0
            await wait_until(lambda: engine.state is EngineState.READY)
        assert engine.backoff.recent == 0


@in_loop
async def test_one_that_is_killed_while_it_loads_is_started_again(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    write_model(models, "a", slow_start=go)
    async with rig(models, runtime) as it:
        waiting = it.acquire_in_background("a")
        for _ in range(engine_module.START_ATTEMPTS - 1):
            await wait_until(
                lambda: it.pool.state("a") is EngineState.STARTING and it.engine("a").pid
            )
            pid = it.engine("a").pid
            os.kill(pid or 0, signal.SIGKILL)
            await wait_until(lambda pid=pid: it.engine("a").pid not in (pid, None))
        go.touch()
        lease = await waiting
        assert it.engine("a").restarts == 0
        lease.release(DONE)


@in_loop
async def test_one_that_is_killed_at_each_load_is_given_up(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    write_model(models, "a", slow_start=tmp_path / "never")
    async with rig(models, runtime) as it:
        waiting = it.acquire_in_background("a")
        for _ in range(engine_module.START_ATTEMPTS):
            await wait_until(
                lambda: it.pool.state("a") is EngineState.STARTING and it.engine("a").pid
            )
            pid = it.engine("a").pid
            os.kill(pid or 0, signal.SIGKILL)
            await wait_until(lambda pid=pid: it.engine("a").pid != pid)
        with pytest.raises(EngineFailed, match="exited with status 137"):
            await waiting


@in_loop
async def test_a_model_file_that_is_gone_after_a_crash(models: Path, runtime: Path) -> None:
    path = write_model(models, "a")
    async with rig(models, runtime) as it:
        engine = await it.pool.load("a")
        path.unlink()
        os.kill(engine.pid or 0, signal.SIGKILL)
        await wait_until(lambda: engine.state is EngineState.FAILED)
        with pytest.raises(ModelNotFound):
            await it.lease("a")
        write_model(models, "b")
        await it.pool.load("b")
