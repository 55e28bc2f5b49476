"""Loading and unloading of models, with real processes of the fake engine."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.models.gguf_files import write_gguf
from tests.supervisor.helpers import DONE, in_loop, is_alive, rig, turn
from tests.waiting import wait_until
from vllm_obtain.errors import EngineFailed, ModelNotFound, ServiceError
from vllm_obtain.supervisor.engine.states import EngineState


@in_loop
async def test_a_model_is_ready_when_a_token_came_out_of_it(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        engine = await it.pool.load("a")
        assert engine.state is EngineState.READY
        assert is_alive(engine.pid)
        assert engine.load_seconds is not None
        assert it.pool.ready_engine("a") is engine


@in_loop
async def test_loading_what_is_loaded_starts_nothing(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        first = (await it.pool.load("a")).pid
        assert (await it.pool.load("a")).pid == first
        await it.pool.begin("a")
        assert it.engine("a").pid == first
        assert (await it.pool.load("A")).pid == first, "capitals do not make another model"


@in_loop
async def test_a_failed_load_says_what_the_engine_said(models: Path, runtime: Path) -> None:
    lines = [f"line {number}" for number in range(30)] + ["cannot map the file: no such tensor"]
    write_model(models, "a", exit_at_start=3, print_at_start=lines)
    async with rig(models, runtime) as it:
        with pytest.raises(EngineFailed) as caught:
            await it.lease("a")
        error = caught.value
        assert (error.code, error.status) == ("model_load_failed", 503)
        assert "exited with status 3" in error.message
        assert "line 29 | cannot map the file: no such tensor" in error.message
        assert it.pool.state("a") is EngineState.FAILED
        assert it.leases.in_flight == 0
        assert it.engine("a").last_error == error.message

        write_model(models, "a")
        (await it.lease("a")).release(DONE)
        assert it.engine("a").last_error is None


@in_loop
async def test_all_who_wait_hear_of_a_failure_and_nothing_is_tried_again(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    write_model(models, "a", exit_at_start=3, slow_start=go, print_at_start=["once"])
    async with rig(models, runtime) as it:
        waiting = [it.acquire_in_background("a") for _ in range(5)]
        await wait_until(lambda: it.pool.engines and it.engine("a").waiting == 5)
        go.touch()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(end, EngineFailed) for end in ends)
        assert it.engine("a").waiting == 0
        await turn()
        assert it.pool.state("a") is EngineState.FAILED


@in_loop
async def test_a_load_that_takes_too_long(models: Path, runtime: Path) -> None:
    write_model(models, "a", never_ready=True, ignore_sigterm=True, print_at_start=["so slow"])
    async with rig(models, runtime, load_timeout=1.5) as it:
        with pytest.raises(EngineFailed, match=r"LOAD_TIMEOUT=1.5 seconds.*so slow"):
            await it.pool.load("a")
        assert it.pool.state("a") is EngineState.FAILED
        assert it.engine("a").pid is None


@in_loop
async def test_a_first_answer_that_is_an_error(models: Path, runtime: Path) -> None:
    error = {"code": 500, "message": "as the switch says"}
    write_model(models, "a", error=error, warm_up_too=True)
    write_model(models, "b", crash_after_tokens=1, warm_up_too=True, print_at_start=["hello"])
    write_model(models, "c", crash_before_first_byte=True, warm_up_too=True)
    async with rig(models, runtime) as it:
        with pytest.raises(EngineFailed, match="as the switch says"):
            await it.pool.load("a")
        with pytest.raises(EngineFailed, match=r"exited with status 9.*hello"):
            await it.pool.load("b")
        with pytest.raises(EngineFailed, match="exited with status 9"):
            await it.pool.load("c")


@in_loop
async def test_models_that_cannot_be_loaded(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    (models / "broken.gguf").write_bytes(b"GGUFnonsense")
    async with rig(models, runtime) as it:
        with pytest.raises(ModelNotFound):
            await it.lease("nothing")
        with pytest.raises(EngineFailed) as caught:
            await it.lease("broken")
        assert caught.value.code == "model_broken"
        assert it.leases.in_flight == 0


@in_loop
async def test_a_model_file_that_changed_is_read_at_the_next_start(
    models: Path, runtime: Path
) -> None:
    path = write_model(models, "a")
    async with rig(models, runtime) as it:
        engine = await it.pool.load("a")
        first, before = engine.model, it.pool.identity("a")
        path.unlink()
        write_gguf(path, {"general.name": "Another", "llama.context_length": 256})
        it.catalogue.models()
        assert (await it.pool.load("a")).model is first, "what runs goes on"
        assert it.pool.identity("a") == before
        os.kill(engine.pid or 0, signal.SIGKILL)
        await wait_until(lambda: engine.restarts == 1 and engine.state is EngineState.READY)
        assert engine.model.context_length == 256
        assert it.pool.identity("a") != before


@in_loop
async def test_a_model_that_has_just_arrived(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        await it.pool.load("a")
        write_model(models, "b")
        assert it.pool.identity("b")
        write_model(models, "c")
        await it.pool.load("c")


@in_loop
async def test_unloading(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        assert await it.pool.unload("a") is EngineState.STOPPED
        with pytest.raises(ModelNotFound):
            await it.pool.unload("nothing")
        pid = (await it.pool.load("a")).pid
        both = await asyncio.gather(it.pool.unload("a"), it.pool.unload("a"))
        assert both == [EngineState.STOPPED, EngineState.STOPPED]
        assert not is_alive(pid)
        (await it.lease("a")).release(DONE)


@in_loop
async def test_unloading_calls_off_a_load_nobody_waits_for(models: Path, runtime: Path) -> None:
    write_model(models, "a", never_ready=True)
    async with rig(models, runtime) as it:
        loading = asyncio.create_task(it.pool.load("a"))
        pid = await wait_until(lambda: it.pool.engines and it.engine("a").pid)
        assert await it.pool.unload("a") is EngineState.STOPPED
        with pytest.raises(EngineFailed) as caught:
            await loading
        assert caught.value.code == "model_unloaded"
        assert not is_alive(pid)
        assert it.engine("a").last_error is None


@in_loop
async def test_unloading_waits_for_a_load_that_requests_wait_for(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    write_model(models, "a", slow_start=tmp_path / "go")
    async with rig(models, runtime) as it:
        waiting = it.acquire_in_background("a")
        await wait_until(lambda: it.pool.engines and it.engine("a").waiting)
        unloading = asyncio.create_task(it.pool.unload("a"))
        await turn()
        (tmp_path / "go").touch()
        lease = await waiting
        await turn()
        assert not unloading.done()
        lease.release(DONE)
        assert await unloading is EngineState.STOPPED


@in_loop
async def test_closing_leaves_nothing_and_nobody(models: Path, runtime: Path) -> None:
    write_model(models, "a", ignore_sigterm=True)
    write_model(models, "b", never_ready=True)
    write_model(models, "c")
    async with rig(models, runtime, max_concurrent_models=3) as it:
        await it.pool.load("c")
        waiting = it.acquire_in_background("b")
        queued = it.acquire_in_background("a")
        pid = await wait_until(
            lambda: it.pool.state("b") is EngineState.STARTING and it.engine("b").pid
        )
        other = it.engine("c").pid
        await it.pool.close()
        for request in (waiting, queued):
            with pytest.raises(ServiceError):
                await request
        assert not is_alive(pid)
        assert not is_alive(other)
        with pytest.raises(ServiceError, match="stopping"):
            await it.lease("c")


@in_loop
async def test_closing_while_the_process_is_being_started(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        it.pool.begin("a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await it.pool.close()
        assert it.engine("a").pid is None


@pytest.mark.slow
@in_loop
async def test_what_ignores_sigterm_is_killed(models: Path, runtime: Path, tmp_path: Path) -> None:
    write_model(models, "a", ignore_sigterm=True, grandchild=tmp_path / "pid")
    async with rig(models, runtime) as it:
        pid = (await it.pool.load("a")).pid
        child = int((tmp_path / "pid").read_text())
        assert is_alive(child)
        await it.pool.unload("a")
        assert not is_alive(pid)
        await wait_until(lambda: not is_alive(child))
