"""Moving a model from one engine to another while requests run, with real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, in_loop, is_alive, rig, states, successor, turn
from tests.waiting import wait_until
from vllm_obtain.errors import EngineFailed, InvalidRequest, ServiceError
from vllm_obtain.supervisor.engine.states import EngineState


@in_loop
async def test_the_new_one_takes_over_and_the_old_one_finishes(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        held = await it.lease("a")
        before, identity = it.engine("a"), it.pool.identity("a")
        new = await it.pool.load("a", "other")
        assert (new.adapter.name, new.state) == ("other", EngineState.READY)
        assert states(it) == [("other", "ready"), ("fake", "draining")]
        assert it.pool.identity("a") != identity
        lease = await it.lease("a")
        assert lease.granted.engine == "other"
        assert held.granted.engine == "fake" and is_alive(before.pid)
        held.extend(10)
        held.release(DONE)
        await wait_until(lambda: states(it) == [("other", "ready")])
        lease.release(DONE)
        (handover,) = it.pool.switches.last
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
        waiting = it.acquire_in_background("a")
        await wait_until(lambda: it.pool.engines[0].users == 2)
        (tmp_path / "go").touch()
        assert await moving is new
        # Who waited for a place on the old one has one on the new one, at once.
        third = await waiting
        assert third.granted.engine == "other"
        assert new.users == 1
        second.release(DONE)
        third.release(DONE)
        await wait_until(lambda: len(it.pool.engines) == 1)


@in_loop
async def test_the_engine_it_has_is_no_change(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        pid = (await it.pool.load("a")).pid
        assert (await it.pool.load("a", "fake")).pid == pid
        assert it.pool.switches.last == []
        assert it.pool.load_status("a", "fake").state == "ready"


@in_loop
async def test_an_engine_named_at_the_first_load_is_kept(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    write_model(models, "b")
    async with rig(models, runtime) as it:
        await it.pool.load("a", "other")
        await it.pool.load("b")
        assert it.pool.state("a") is EngineState.STOPPED
        assert (await it.pool.load("a")).adapter.name == "other", "after making room too"
        await it.pool.unload("a")
        assert (await it.pool.load("a")).adapter.name == "fake"
        await it.pool.load("a", "other")
        assert (await it.pool.load("a", "auto")).adapter.name == "fake"
        assert len(it.pool.switches.last) == 2, "loading is no hand-over"


@in_loop
async def test_an_engine_that_is_none(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        pid = (await it.pool.load("a")).pid
        with pytest.raises(InvalidRequest, match=r"Unknown engine 'nonsense'.*other") as caught:
            await it.pool.load("a", "nonsense")
        assert (caught.value.status, caught.value.param) == (400, "engine")
        assert it.engine("a").pid == pid


@in_loop
@pytest.mark.usefixtures("small_machine")
async def test_without_memory_for_both_requests_wait_for_the_new_one(
    models: Path, runtime: Path
) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        held = await it.lease("a")
        old = it.engine("a")
        moving = asyncio.create_task(it.pool.load("a", "other"))
        await wait_until(lambda: old.state is EngineState.DRAINING)
        waiting = it.acquire_in_background("a")
        await turn()
        assert not waiting.done() and is_alive(old.pid)
        pid = old.pid
        held.release(DONE)
        lease = await waiting
        assert lease.granted.engine == "other" and not is_alive(pid)
        assert (await moving).users == 1
        assert states(it) == [("other", "ready")]
        lease.release(DONE)


@in_loop
async def test_models_are_counted_not_processes(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    for name in "abc":
        write_model(models, name)
    async with rig(models, runtime, max_concurrent_models=2) as it:
        lease = await it.lease("a")
        await it.pool.load("b")
        await it.pool.load("a", "other")
        assert it.pool.state("b") is EngineState.READY
        assert [s for s in states(it) if s[1] in ("ready", "draining")] == [
            ("other", "ready"),
            ("fake", "draining"),
            ("fake", "ready"),
        ]
        (await it.lease("a")).release(DONE)
        await it.pool.load("c")
        assert it.pool.state("b") is EngineState.STOPPED, "a is used later, and counts once"
        lease.release(DONE)


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
        assert it.pool.load_status("a", "other").state == "starting"
        (tmp_path / "go").touch()
        assert await first is await same


@in_loop
async def test_a_named_engine_takes_the_place_of_one_that_is_loading(
    models: Path, runtime: Path
) -> None:
    write_model(models, "a", never_ready=True)
    async with rig(models, runtime) as it:
        loading = asyncio.create_task(it.pool.load("a"))
        waiting = it.acquire_in_background("a")
        pid = await wait_until(lambda: it.pool.engines and it.engine("a").pid)
        await it.pool.load("a", "other")
        assert not is_alive(pid)
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
        lease = await it.lease("a")
        moving = asyncio.create_task(it.pool.load("a", "other"))
        new = await successor(it)
        pids = new.pid, it.engine_of("fake").pid
        unloading = asyncio.create_task(it.pool.unload("a"))
        with pytest.raises(EngineFailed) as caught:
            await moving
        assert caught.value.code == "model_unloaded"
        assert not is_alive(pids[0]) and is_alive(pids[1])
        lease.release(DONE)
        assert await unloading is EngineState.STOPPED
        assert not is_alive(pids[1])
        assert (await it.pool.load("a")).adapter.name == "fake"


@in_loop
async def test_unloading_waits_for_those_that_leave(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        lease = await it.lease("a")
        await it.pool.load("a", "other")
        unloading = asyncio.create_task(it.pool.unload("a"))
        await wait_until(lambda: it.pool.state("a") is EngineState.STOPPED)
        assert not unloading.done()
        lease.release(DONE)
        assert await unloading is EngineState.STOPPED
        assert states(it) == [("other", "stopped")]


@in_loop
async def test_there_and_back_while_a_request_runs(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        lease = await it.lease("a")
        await it.pool.load("a", "other")
        await it.pool.load("a", "fake")
        await wait_until(lambda: states(it) == [("fake", "ready"), ("fake", "draining")])
        lease.release(DONE)
        await wait_until(lambda: states(it) == [("fake", "ready")])


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
        await wait_until(lambda: it.pool.load_status("a", "other").stage == "first")
        (tmp_path / "go").touch()
        await wait_until(lambda: states(it) == [("other", "ready")])
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
        assert len(pids) == 2 and not any(map(is_alive, pids))
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
        waiting = it.acquire_in_background("a")
        await asyncio.sleep(0)
        assert (await it.pool.load("a", "other")).adapter.name == "other"
        with pytest.raises(EngineFailed):
            await loading
        (await waiting).release(DONE)
