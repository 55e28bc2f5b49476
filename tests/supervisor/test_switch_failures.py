"""Switches to another engine that fail, and crashes during a switch, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.fake_engine import OtherAdapter, write_model
from tests.supervisor.helpers import DONE, Rig, in_loop, rig, states, successor, turn
from tests.waiting import wait_until
from vllm_obtain.errors import EngineFailed
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.engine.states import EngineState
from vllm_obtain.supervisor.leases import Lease


@in_loop
async def test_the_old_one_stays_if_the_new_one_fails(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    write_model(models, "a", "other", exit_at_start=3, print_at_start=["no such kernel"])
    async with rig(models, runtime) as it:
        pid = (await it.pool.load("a")).pid
        with pytest.raises(EngineFailed) as caught:
            await it.pool.load("a", "other")
        assert "no such kernel" in caught.value.message
        assert caught.value.message.endswith("fake still serves the model.")
        assert states(it) == [("fake", "ready")]
        lease = await it.lease("a")
        assert it.engine("a").pid == pid
        lease.release(DONE)
        (handover,) = it.pool.switches.last
        assert "no such kernel" in (handover.problem or "")
        await it.pool.unload("a")
        assert (await it.pool.load("a")).adapter.name == "fake"


@in_loop
@pytest.mark.usefixtures("small_machine")
async def test_without_memory_for_both_the_old_one_is_loaded_again(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    write_model(models, "a")
    write_model(models, "a", "other", slow_start=tmp_path / "go", exit_at_start=3)
    async with rig(models, runtime) as it:
        await it.pool.load("a")
        moving = asyncio.create_task(it.pool.load("a", "other"))
        await successor(it)
        waiting = it.acquire_in_background("a")
        await turn()
        assert not waiting.done()
        (tmp_path / "go").touch()
        lease = await waiting
        assert lease.granted.engine == "fake", "held, and served by the one before"
        with pytest.raises(EngineFailed, match="fake still serves the model"):
            await moving
        lease.release(DONE)


@in_loop
@pytest.mark.usefixtures("small_machine")
async def test_if_neither_starts_those_who_wait_hear_of_both(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    write_model(models, "a")
    write_model(
        models, "a", "other", slow_start=tmp_path / "go", exit_at_start=3, print_at_start=["new"]
    )
    async with rig(models, runtime) as it:
        await it.pool.load("a")
        moving = asyncio.create_task(it.pool.load("a", "other"))
        await successor(it)
        write_model(models, "a", exit_at_start=4, print_at_start=["old"])
        waiting = it.acquire_in_background("a")
        await turn()
        (tmp_path / "go").touch()
        ends = await asyncio.gather(moving, waiting, return_exceptions=True)
        assert all(isinstance(end, EngineFailed) for end in ends)
        assert "status 3" in str(ends[1]) and "status 4" in str(ends[1])
        assert it.pool.state("a") is EngineState.FAILED
        write_model(models, "a")
        (await it.lease("a")).release(DONE)


async def crashed_in_a_switch(it: Rig, go: Path) -> tuple[asyncio.Task[Engine], Lease]:
    """Kill the old engine while the new one waits for a file; a request that waits gets a lease."""
    old = await it.pool.load("a")
    moving = asyncio.create_task(it.pool.load("a", "other"))
    await successor(it)
    os.kill(old.pid or 0, signal.SIGKILL)
    await wait_until(lambda: old.state is EngineState.CRASHED)
    waiting = it.acquire_in_background("a")
    await turn()
    go.touch()
    return moving, await waiting


@in_loop
async def test_the_old_one_crashes_meanwhile(models: Path, runtime: Path, tmp_path: Path) -> None:
    write_model(models, "a")
    write_model(models, "a", "other", slow_start=tmp_path / "go")
    async with rig(models, runtime) as it:
        moving, lease = await crashed_in_a_switch(it, tmp_path / "go")
        assert lease.granted.engine == "other"
        await moving
        assert states(it) == [("other", "ready")]
        lease.release(DONE)


@in_loop
async def test_the_old_one_crashes_and_the_new_one_fails(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    write_model(models, "a")
    write_model(models, "a", "other", slow_start=tmp_path / "go", exit_at_start=3)
    async with rig(models, runtime) as it:
        moving, lease = await crashed_in_a_switch(it, tmp_path / "go")
        assert lease.granted.engine == "fake"
        with pytest.raises(EngineFailed):
            await moving
        lease.release(DONE)


@in_loop
async def test_the_new_one_crashes_while_the_old_one_leaves(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        held = await it.lease("a")
        new = await it.pool.load("a", "other")
        pid = new.pid
        os.kill(pid or 0, signal.SIGKILL)
        await wait_until(lambda: new.state is EngineState.READY and new.pid != pid)
        lease = await it.lease("a")
        assert lease.granted.engine == "other"
        held.release(DONE)
        lease.release(DONE)


@in_loop
async def test_the_old_one_is_loaded_again_if_pinned_models_leave_no_memory_for_the_new_one(
    models: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(models, "a")
    write_model(models, "b")
    table = tmp_path / "models.toml"
    table.write_text("[b]\npin = true\n")
    monkeypatch.setattr(OtherAdapter, "overhead_bytes", 30 * 2**20)
    more = {"max_concurrent_models": 2, "model_settings": table, "memory_limit": "40M"}
    async with rig(models, runtime, **more) as it:
        await it.pool.load("b")
        await it.pool.load("a")
        with pytest.raises(EngineFailed, match=r"pinned models use.*fake still serves") as caught:
            await it.pool.load("a", "other")
        assert (caught.value.code, caught.value.status) == ("insufficient_memory", 507)
        assert it.pool.state("a") is EngineState.READY
        (await it.lease("a")).release(DONE)
