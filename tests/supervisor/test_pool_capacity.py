"""MAX_CONCURRENT_MODELS: which model is evicted for another one, with real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, in_loop, is_alive, rig, turn
from tests.waiting import wait_until
from vllm_obtain.supervisor.engine.states import EngineState


@in_loop
async def test_the_least_recently_used_one_leaves(models: Path, runtime: Path) -> None:
    for name in "abc":
        write_model(models, name)
    async with rig(models, runtime, max_concurrent_models=2) as it:
        await it.pool.load("a")
        await it.pool.load("b")
        (await it.lease("a")).release(DONE)
        await it.pool.load("c")
        assert it.pool.state("b") is EngineState.STOPPED
        assert it.pool.state("a") is it.pool.state("c") is EngineState.READY


@in_loop
async def test_a_model_just_loaded_counts_as_used(models: Path, runtime: Path) -> None:
    for name in "abc":
        write_model(models, name)
    async with rig(models, runtime, max_concurrent_models=2) as it:
        await it.pool.load("b")
        await it.pool.unload("b")
        (await it.lease("a")).release(DONE)
        await it.pool.load("b")
        await it.pool.load("c")
        assert it.pool.state("a") is EngineState.STOPPED
        assert it.pool.state("b") is EngineState.READY


@in_loop
async def test_one_in_use_is_never_cut_off(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    write_model(models, "b")
    async with rig(models, runtime) as it:
        held = await it.lease("a")
        pid = it.engine("a").pid
        newcomer = it.acquire_in_background("b")
        await wait_until(lambda: it.pool.state("a") is EngineState.DRAINING)
        late = it.acquire_in_background("a")  # comes after b and is served after b
        await turn()
        assert is_alive(pid)
        assert not newcomer.done()
        held.release(DONE)
        lease = await newcomer
        assert not is_alive(pid)
        assert not late.done()
        lease.release(DONE)
        (await late).release(DONE)


@in_loop
async def test_two_models_that_alternate_both_get_their_turn(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    write_model(models, "b")
    async with rig(models, runtime) as it:

        async def use(name: str) -> None:
            (await it.lease(name)).release(DONE)

        await asyncio.gather(*(use("ab"[number % 2]) for number in range(12)))
        loads = it.numbers.registry.get_sample_value
        counted = [
            loads("vllm_obtain_model_load_seconds_count", {"model": name, "engine": "fake"})
            for name in "ab"
        ]
        assert counted == [1, 1], "those who waited were in as soon as their model was ready"


@in_loop
async def test_two_loads_at_once_with_one_place_both_succeed(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    write_model(models, "b")
    async with rig(models, runtime) as it:
        await asyncio.gather(it.pool.load("a"), it.pool.load("b"))
        assert [it.pool.state(name) for name in "ab"] == [EngineState.STOPPED, EngineState.READY]


@in_loop
async def test_one_that_leaves_already_is_waited_for(models: Path, runtime: Path) -> None:
    for name in "abc":
        write_model(models, name)
    async with rig(models, runtime, max_concurrent_models=2) as it:
        lease = await it.lease("a")
        await it.pool.load("b")
        unloading = asyncio.create_task(it.pool.unload("a"))
        await wait_until(lambda: it.pool.state("a") is EngineState.DRAINING)
        loading = asyncio.create_task(it.pool.load("c"))
        await turn()
        assert it.pool.state("b") is EngineState.READY, "a makes room, so b may stay"
        assert not loading.done()
        lease.release(DONE)
        assert await unloading is EngineState.STOPPED
        await loading
        assert it.pool.state("b") is EngineState.READY
