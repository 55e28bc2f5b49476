"""Loading, unloading and eviction, with real processes of the fake engine."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.catalogue.gguf_files import write_gguf
from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, in_loop, lives, rig, turn, until
from vllm_obtain.errors import EngineFailed, ModelNotFound, ServiceError
from vllm_obtain.supervisor import engine as engine_module
from vllm_obtain.supervisor.states import State


@in_loop
async def test_a_model_is_ready_when_a_token_came_out_of_it(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        engine = await it.pool.load("a")
        assert engine.state is State.READY
        assert lives(engine.pid)
        assert engine.load_seconds is not None
        assert it.pool.ready("a") is engine


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
async def test_the_least_recently_used_one_leaves(models: Path, runtime: Path) -> None:
    for name in "abc":
        write_model(models, name)
    async with rig(models, runtime, max_concurrent_models=2) as it:
        await it.pool.load("a")
        await it.pool.load("b")
        (await it.lease("a")).release(DONE)
        await it.pool.load("c")
        assert it.pool.state("b") is State.STOPPED
        assert it.pool.state("a") is it.pool.state("c") is State.READY


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
        assert it.pool.state("a") is State.STOPPED
        assert it.pool.state("b") is State.READY


@in_loop
async def test_one_in_use_is_never_cut_off(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    write_model(models, "b")
    async with rig(models, runtime) as it:
        held = await it.lease("a")
        pid = it.engine("a").pid
        newcomer = it.asked("b")
        await until(lambda: it.pool.state("a") is State.DRAINING)
        late = it.asked("a")  # comes after b and is served after b
        await turn()
        assert lives(pid)
        assert not newcomer.done()
        held.release(DONE)
        lease = await newcomer
        assert not lives(pid)
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
        assert [it.pool.state(name) for name in "ab"] == [State.STOPPED, State.READY]


@in_loop
async def test_one_that_leaves_already_is_waited_for(models: Path, runtime: Path) -> None:
    for name in "abc":
        write_model(models, name)
    async with rig(models, runtime, max_concurrent_models=2) as it:
        held = await it.lease("a")
        await it.pool.load("b")
        unloading = asyncio.create_task(it.pool.unload("a"))
        await until(lambda: it.pool.state("a") is State.DRAINING)
        loading = asyncio.create_task(it.pool.load("c"))
        await turn()
        assert it.pool.state("b") is State.READY, "a makes room, so b may stay"
        assert not loading.done()
        held.release(DONE)
        assert await unloading is State.STOPPED
        await loading
        assert it.pool.state("b") is State.READY


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
        assert it.pool.state("a") is State.FAILED
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
        waiting = [it.asked("a") for _ in range(5)]
        await until(lambda: it.pool.engines and it.engine("a").expected == 5)
        go.touch()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(end, EngineFailed) for end in ends)
        assert it.engine("a").expected == 0
        await turn()
        assert it.pool.state("a") is State.FAILED


@in_loop
async def test_a_load_that_takes_too_long(models: Path, runtime: Path) -> None:
    write_model(models, "a", never_ready=True, ignore_sigterm=True, print_at_start=["so slow"])
    async with rig(models, runtime, load_timeout=1.5) as it:
        with pytest.raises(EngineFailed, match=r"LOAD_TIMEOUT=1.5 seconds.*so slow"):
            await it.pool.load("a")
        assert it.pool.state("a") is State.FAILED
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
async def test_a_crash_is_survived_by_those_who_wait(
    models: Path, runtime: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(models, "a", slots=1, print_at_start=["last words"])
    async with rig(models, runtime) as it:
        await it.lease("a")  # as if its worker never heard of the crash
        waiting = it.asked("a")
        await until(lambda: it.engine("a").users == 2)
        first = it.engine("a").pid
        assert first is not None
        os.kill(first, signal.SIGSEGV)
        lease = await waiting
        assert it.engine("a").pid != first
        assert it.engine("a").restarts == 1
        (crash,) = [line for line in caplog.records if line.getMessage() == "engine crashed"]
        assert crash.levelname == "ERROR"
        assert crash.context["reason"] == "ended by itself with status 139 (SIGSEGV)"
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
        await until(lambda: engine.state is State.READY and engine.pid != first)
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
        third = it.asked("c")
        await until(lambda: it.pool.state("c") is State.STARTING)
        second = it.asked("b")  # is next, and may take the place of an engine that has crashed
        await turn()
        os.kill(crashing.pid or 0, signal.SIGKILL)
        await until(lambda: crashing.restarts and it.pool._seats["a"].under_way)
        (tmp_path / "go").touch()
        leases = [await third, await second]
        await turn()
        assert it.pool.state("a") is State.STOPPED
        assert it.pool.state("b") is it.pool.state("c") is State.READY
        for lease in leases:
            lease.release(DONE)


@in_loop
async def test_a_crash_while_leaving_starts_nothing(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        held = await it.lease("a")
        unloading = asyncio.create_task(it.pool.unload("a"))
        await until(lambda: it.pool.state("a") is State.DRAINING)
        os.kill(it.engine("a").pid or 0, signal.SIGKILL)
        assert await unloading is State.STOPPED
        held.release(DONE)
        await turn()
        assert it.pool.state("a") is State.STOPPED
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
            await until(lambda first=first: engine.pid not in (first, None), 5)
            await until(lambda: engine.state is State.READY)
        os.kill(engine.pid or 0, signal.SIGKILL)
        await until(lambda: engine.state is State.CRASHED)
        assert 1 < engine.back_off.left <= 2
        # A request waits for the same moment, and another model may take the place meanwhile.
        waiting = it.asked("a")
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
            await until(lambda restarts=restarts: engine.restarts == restarts)
            assert engine.back_off.left == 0
            await until(lambda: engine.state is State.READY)
        assert engine.back_off.recent == 0


@in_loop
async def test_one_that_is_killed_while_it_loads_is_started_again(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    write_model(models, "a", slow_start=go)
    async with rig(models, runtime) as it:
        waiting = it.asked("a")
        for _ in range(engine_module.STARTS - 1):
            await until(lambda: it.pool.state("a") is State.STARTING and it.engine("a").pid)
            pid = it.engine("a").pid
            os.kill(pid or 0, signal.SIGKILL)
            await until(lambda pid=pid: it.engine("a").pid not in (pid, None))
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
        waiting = it.asked("a")
        for _ in range(engine_module.STARTS):
            await until(lambda: it.pool.state("a") is State.STARTING and it.engine("a").pid)
            pid = it.engine("a").pid
            os.kill(pid or 0, signal.SIGKILL)
            await until(lambda pid=pid: it.engine("a").pid != pid)
        with pytest.raises(EngineFailed, match="exited with status 137"):
            await waiting


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
        await until(lambda: engine.restarts == 1 and engine.state is State.READY)
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
async def test_a_model_file_that_is_gone_after_a_crash(models: Path, runtime: Path) -> None:
    path = write_model(models, "a")
    async with rig(models, runtime) as it:
        engine = await it.pool.load("a")
        path.unlink()
        os.kill(engine.pid or 0, signal.SIGKILL)
        await until(lambda: engine.state is State.FAILED)
        with pytest.raises(ModelNotFound):
            await it.lease("a")
        write_model(models, "b")
        await it.pool.load("b")


@in_loop
async def test_unloading(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        assert await it.pool.unload("a") is State.STOPPED
        with pytest.raises(ModelNotFound):
            await it.pool.unload("nothing")
        pid = (await it.pool.load("a")).pid
        both = await asyncio.gather(it.pool.unload("a"), it.pool.unload("a"))
        assert both == [State.STOPPED, State.STOPPED]
        assert not lives(pid)
        (await it.lease("a")).release(DONE)


@in_loop
async def test_unloading_calls_off_a_load_nobody_waits_for(models: Path, runtime: Path) -> None:
    write_model(models, "a", never_ready=True)
    async with rig(models, runtime) as it:
        loading = asyncio.create_task(it.pool.load("a"))
        pid = await until(lambda: it.pool.engines and it.engine("a").pid)
        assert await it.pool.unload("a") is State.STOPPED
        with pytest.raises(EngineFailed) as caught:
            await loading
        assert caught.value.code == "model_unloaded"
        assert not lives(pid)
        assert it.engine("a").last_error is None


@in_loop
async def test_unloading_waits_for_a_load_that_requests_wait_for(
    models: Path, runtime: Path, tmp_path: Path
) -> None:
    write_model(models, "a", slow_start=tmp_path / "go")
    async with rig(models, runtime) as it:
        waiting = it.asked("a")
        await until(lambda: it.pool.engines and it.engine("a").expected)
        unloading = asyncio.create_task(it.pool.unload("a"))
        await turn()
        (tmp_path / "go").touch()
        lease = await waiting
        await turn()
        assert not unloading.done()
        lease.release(DONE)
        assert await unloading is State.STOPPED


@in_loop
async def test_closing_leaves_nothing_and_nobody(models: Path, runtime: Path) -> None:
    write_model(models, "a", ignore_sigterm=True)
    write_model(models, "b", never_ready=True)
    write_model(models, "c")
    async with rig(models, runtime, max_concurrent_models=3) as it:
        await it.pool.load("c")
        waiting = it.asked("b")
        queued = it.asked("a")
        pid = await until(lambda: it.pool.state("b") is State.STARTING and it.engine("b").pid)
        other = it.engine("c").pid
        await it.pool.close()
        for request in (waiting, queued):
            with pytest.raises(ServiceError):
                await request
        assert not lives(pid)
        assert not lives(other)
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


@in_loop
async def test_what_ignores_sigterm_is_killed(models: Path, runtime: Path, tmp_path: Path) -> None:
    write_model(models, "a", ignore_sigterm=True, grandchild=tmp_path / "pid")
    async with rig(models, runtime) as it:
        pid = (await it.pool.load("a")).pid
        child = int((tmp_path / "pid").read_text())
        assert lives(child)
        await it.pool.unload("a")
        assert not lives(pid)
        await until(lambda: not lives(child))
