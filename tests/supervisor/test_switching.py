"""Moving a model from one engine to another while requests run, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, Rig, in_loop, lives, rig, turn, until
from vllm_obtain.errors import EngineFailed, InvalidRequest, ServiceError
from vllm_obtain.supervisor import fitting
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.lease import Lease
from vllm_obtain.supervisor.states import State


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which two engines never fit."""
    monkeypatch.setattr(fitting, "fits", lambda *_: False)


def states(it: Rig) -> list[tuple[str, str]]:
    return [(engine.adapter.name, engine.state.value) for engine in it.pool.engines]


async def successor(it: Rig) -> Engine:
    """The engine that is starting, as soon as it has a process."""
    found: Any = await until(
        lambda: [e for e in it.pool.engines if e.state is State.STARTING and e.pid]
    )
    return found[0]  # type: ignore[no-any-return]


@in_loop
async def test_the_new_one_takes_over_and_the_old_one_finishes(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        held = await it.lease("a")
        before, identity = it.engine("a"), it.pool.identity("a")
        new = await it.pool.load("a", "other")
        assert (new.adapter.name, new.state) == ("other", State.READY)
        assert states(it) == [("other", "ready"), ("fake", "draining")]
        assert it.pool.identity("a") != identity
        lease = await it.lease("a")
        assert lease.granted.engine == "other"
        assert held.granted.engine == "fake" and lives(before.pid)
        held.extend(10)
        held.release(DONE)
        await until(lambda: states(it) == [("other", "ready")])
        lease.release(DONE)
        (handover,) = it.pool.handovers.last
        assert (handover.model, handover.source, handover.to) == ("a", "fake", "other")
        assert handover.problem is None and handover.seconds > 0
        counted = it.numbers.registry.get_sample_value(
            "vllm_obtain_engine_handovers_total",
            {"model": "a", "from": "fake", "to": "other", "cause": "switch"},
        )
        assert counted == 1


@in_loop
async def test_requests_run_on_the_old_one_while_the_new_one_loads(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    write_model(models, "a", slots=1)
    write_model(models, "a", "other", slow_start=tmp_path / "go")
    async with rig(models, runtime) as it:
        first = await it.lease("a")
        moving = asyncio.create_task(it.pool.load("a", "other"))
        new = await successor(it)
        first.release(DONE)
        second = await it.lease("a")
        assert second.granted.engine == "fake"
        waiting = it.asked("a")
        await until(lambda: it.pool.engines[0].users == 2)
        (tmp_path / "go").touch()
        assert await moving is new
        # Who waited for a place on the old one has one on the new one, at once.
        third = await waiting
        assert third.granted.engine == "other"
        assert new.users == 1
        second.release(DONE)
        third.release(DONE)
        await until(lambda: len(it.pool.engines) == 1)


@in_loop
async def test_the_engine_it_has_is_no_change(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        pid = (await it.pool.load("a")).pid
        assert (await it.pool.load("a", "fake")).pid == pid
        assert it.pool.handovers.last == []
        assert it.pool.begun("a", "fake").state == "ready"


@in_loop
async def test_an_engine_named_at_the_first_load_is_kept(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    write_model(models, "b")
    async with rig(models, runtime) as it:
        await it.pool.load("a", "other")
        await it.pool.load("b")
        assert it.pool.state("a") is State.STOPPED
        assert (await it.pool.load("a")).adapter.name == "other", "after making room too"
        await it.pool.unload("a")
        assert (await it.pool.load("a")).adapter.name == "fake"
        await it.pool.load("a", "other")
        assert (await it.pool.load("a", "auto")).adapter.name == "fake"
        assert len(it.pool.handovers.last) == 2, "loading is no hand-over"


@in_loop
async def test_an_engine_that_is_none(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        pid = (await it.pool.load("a")).pid
        with pytest.raises(InvalidRequest, match=r"'nonsense' is no engine.*other") as caught:
            await it.pool.load("a", "nonsense")
        assert (caught.value.status, caught.value.param) == (400, "engine")
        assert it.engine("a").pid == pid


@in_loop
async def test_the_old_one_stays_if_the_new_one_fails(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    write_model(models, "a", "other", exit_at_start=3, print_at_start=["no such kernel"])
    async with rig(models, runtime) as it:
        pid = (await it.pool.load("a")).pid
        with pytest.raises(EngineFailed) as caught:
            await it.pool.load("a", "other")
        assert "no such kernel" in caught.value.message
        assert caught.value.message.endswith("fake serves the model as before.")
        assert states(it) == [("fake", "ready")]
        lease = await it.lease("a")
        assert it.engine("a").pid == pid
        lease.release(DONE)
        (handover,) = it.pool.handovers.last
        assert "no such kernel" in (handover.problem or "")
        await it.pool.unload("a")
        assert (await it.pool.load("a")).adapter.name == "fake"


@in_loop
@pytest.mark.usefixtures("tight")
async def test_without_memory_for_both_requests_wait_for_the_new_one(
    models: Path, runtime: Path
) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        held = await it.lease("a")
        old = it.engine("a")
        moving = asyncio.create_task(it.pool.load("a", "other"))
        await until(lambda: old.state is State.DRAINING)
        waiting = it.asked("a")
        await turn()
        assert not waiting.done() and lives(old.pid)
        pid = old.pid
        held.release(DONE)
        lease = await waiting
        assert lease.granted.engine == "other" and not lives(pid)
        assert (await moving).users == 1
        assert states(it) == [("other", "ready")]
        lease.release(DONE)


@in_loop
@pytest.mark.usefixtures("tight")
async def test_without_memory_for_both_the_old_one_is_loaded_again(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    write_model(models, "a")
    write_model(models, "a", "other", slow_start=tmp_path / "go", exit_at_start=3)
    async with rig(models, runtime) as it:
        await it.pool.load("a")
        moving = asyncio.create_task(it.pool.load("a", "other"))
        await successor(it)
        waiting = it.asked("a")
        await turn()
        assert not waiting.done()
        (tmp_path / "go").touch()
        lease = await waiting
        assert lease.granted.engine == "fake", "held, and served by the one before"
        with pytest.raises(EngineFailed, match="fake serves the model as before"):
            await moving
        lease.release(DONE)


@in_loop
@pytest.mark.usefixtures("tight")
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
        waiting = it.asked("a")
        await turn()
        (tmp_path / "go").touch()
        ends = await asyncio.gather(moving, waiting, return_exceptions=True)
        assert all(isinstance(end, EngineFailed) for end in ends)
        assert "status 3" in str(ends[1]) and "status 4" in str(ends[1])
        assert it.pool.state("a") is State.FAILED
        write_model(models, "a")
        (await it.lease("a")).release(DONE)


@in_loop
async def test_models_are_counted_not_processes(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    for name in "abc":
        write_model(models, name)
    async with rig(models, runtime, max_concurrent_models=2) as it:
        held = await it.lease("a")
        await it.pool.load("b")
        await it.pool.load("a", "other")
        assert it.pool.state("b") is State.READY
        assert [s for s in states(it) if s[1] in ("ready", "draining")] == [
            ("other", "ready"),
            ("fake", "draining"),
            ("fake", "ready"),
        ]
        (await it.lease("a")).release(DONE)
        await it.pool.load("c")
        assert it.pool.state("b") is State.STOPPED, "a is used later, and counts once"
        held.release(DONE)


@in_loop
async def test_two_switches_at_once(models: Path, runtime: Path, tmp_path: Path) -> None:
    write_model(models, "a")
    write_model(models, "a", "other", slow_start=tmp_path / "go")
    async with rig(models, runtime) as it:
        await it.pool.load("a")
        first = asyncio.create_task(it.pool.load("a", "other"))
        await successor(it)
        same = asyncio.create_task(it.pool.load("a", "other"))
        with pytest.raises(InvalidRequest) as caught:
            await it.pool.load("a", "fake")
        assert (caught.value.status, caught.value.code) == (409, "switch_under_way")
        assert it.pool.begun("a", "other").state == "starting"
        (tmp_path / "go").touch()
        assert await first is await same


@in_loop
async def test_a_named_engine_takes_the_place_of_one_that_is_loading(
    models: Path, runtime: Path
) -> None:
    write_model(models, "a", never_ready=True)
    async with rig(models, runtime) as it:
        loading = asyncio.create_task(it.pool.load("a"))
        waiting = it.asked("a")
        pid = await until(lambda: it.pool.engines and it.engine("a").pid)
        await it.pool.load("a", "other")
        assert not lives(pid)
        with pytest.raises(EngineFailed) as caught:
            await loading
        assert caught.value.code == "model_load_superseded"
        lease = await waiting
        assert lease.granted.engine == "other", "who waits for the model does not care"
        lease.release(DONE)


@in_loop
async def test_unloading_calls_a_switch_off(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    write_model(models, "a", "other", never_ready=True)
    async with rig(models, runtime) as it:
        held = await it.lease("a")
        moving = asyncio.create_task(it.pool.load("a", "other"))
        new = await successor(it)
        pids = new.pid, it.engine_of("fake").pid
        unloading = asyncio.create_task(it.pool.unload("a"))
        with pytest.raises(EngineFailed) as caught:
            await moving
        assert caught.value.code == "model_unloaded"
        assert not lives(pids[0]) and lives(pids[1])
        held.release(DONE)
        assert await unloading is State.STOPPED
        assert not lives(pids[1])
        assert (await it.pool.load("a")).adapter.name == "fake"


@in_loop
async def test_unloading_waits_for_those_that_leave(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        held = await it.lease("a")
        await it.pool.load("a", "other")
        unloading = asyncio.create_task(it.pool.unload("a"))
        await until(lambda: it.pool.state("a") is State.STOPPED)
        assert not unloading.done()
        held.release(DONE)
        assert await unloading is State.STOPPED
        assert states(it) == [("other", "stopped")]


async def crashed_in_a_switch(it: Rig, go: Path) -> tuple[asyncio.Task[Engine], Lease]:
    """Kill the old engine while the new one waits for a file; a request that waits gets a lease."""
    old = await it.pool.load("a")
    moving = asyncio.create_task(it.pool.load("a", "other"))
    await successor(it)
    os.kill(old.pid or 0, signal.SIGKILL)
    await until(lambda: old.state is State.CRASHED)
    waiting = it.asked("a")
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
        await until(lambda: new.state is State.READY and new.pid != pid)
        lease = await it.lease("a")
        assert lease.granted.engine == "other"
        held.release(DONE)
        lease.release(DONE)


@in_loop
async def test_there_and_back_while_a_request_runs(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        held = await it.lease("a")
        await it.pool.load("a", "other")
        await it.pool.load("a", "fake")
        await until(lambda: states(it) == [("fake", "ready"), ("fake", "draining")])
        held.release(DONE)
        await until(lambda: states(it) == [("fake", "ready")])


@in_loop
async def test_a_switch_nobody_waits_for_goes_on(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    write_model(models, "a")
    write_model(models, "a", "other", slow_start=tmp_path / "go", print_at_start=["stage: first"])
    async with rig(models, runtime) as it:
        await it.pool.load("a")
        moving = asyncio.create_task(it.pool.load("a", "other"))
        await successor(it)
        moving.cancel()
        await until(lambda: it.pool.begun("a", "other").stage == "first")
        (tmp_path / "go").touch()
        await until(lambda: states(it) == [("other", "ready")])
        assert it.engine("a").stage is None


@in_loop
async def test_closing_in_the_middle_of_a_switch(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    write_model(models, "a", "other", never_ready=True, ignore_sigterm=True)
    async with rig(models, runtime) as it:
        await it.pool.load("a")
        moving = asyncio.create_task(it.pool.load("a", "other"))
        await successor(it)
        pids = [engine.pid for engine in it.pool.engines]
        await it.pool.close()
        assert len(pids) == 2 and not any(map(lives, pids))
        with pytest.raises(ServiceError):
            await moving


@in_loop
async def test_a_load_called_off_before_it_has_begun(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        loading = asyncio.create_task(it.pool.load("a"))
        await asyncio.sleep(0)
        await it.pool.unload("a")
        with pytest.raises(EngineFailed) as caught:
            await loading
        assert caught.value.code == "model_unloaded"
        loading = asyncio.create_task(it.pool.load("a"))
        waiting = it.asked("a")
        await asyncio.sleep(0)
        assert (await it.pool.load("a", "other")).adapter.name == "other"
        with pytest.raises(EngineFailed):
            await loading
        (await waiting).release(DONE)
