"""Engines that give way to the next one, with real processes of two fake engines."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.models.gguf_files import write_gguf
from tests.supervisor.helpers import DONE, Rig, in_loop, rig
from tests.waiting import wait_until
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.selection import EngineChoice, only
from vllm_obtain.errors import EngineFailed
from vllm_obtain.models import Model
from vllm_obtain.supervisor.engine.states import EngineState
from vllm_obtain.supervisor.models import resolver


@pytest.fixture(autouse=True)
def two_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both engines may serve, `fake` first."""

    def ranked(model: Model, settings: Settings) -> list[EngineChoice]:
        return [only(model, settings, name) for name in ("fake", "other")]

    monkeypatch.setattr(resolver, "rank_engines", ranked)


def failover_count(it: Rig) -> float | None:
    labels = {"model": "a", "from": "fake", "to": "other", "cause": "failover"}
    return it.numbers.registry.get_sample_value("vllm_obtain_engine_handovers_total", labels)


async def crash(it: Rig, times: int) -> None:
    for _ in range(times):
        await wait_until(lambda: it.pool.ready_engine("a"), 5)
        engine = it.engine("a")
        os.kill(engine.pid or 0, signal.SIGKILL)
        await wait_until(lambda engine=engine: engine.state is not EngineState.READY)


@in_loop
async def test_one_that_cannot_start_gives_way(models: Path, runtime: Path) -> None:
    write_model(models, "a", exit_at_start=3, print_at_start=["no such kernel"])
    async with rig(models, runtime) as it:
        lease = await it.lease("a")
        assert lease.granted.engine == "other"
        lease.release(DONE)
        (handover,) = it.pool.switches.last
        assert (handover.cause, handover.source, handover.to) == ("failover", "fake", "other")
        assert "no such kernel" in handover.reason
        assert failover_count(it) == 1
        await it.pool.unload("a")
        assert (await it.pool.load("a")).adapter.name == "other", "it has had its chance"
        assert failover_count(it) == 1


@in_loop
async def test_another_file_gets_the_first_one_again(models: Path, runtime: Path) -> None:
    path = write_model(models, "a", exit_at_start=3)
    async with rig(models, runtime) as it:
        assert (await it.pool.load("a")).adapter.name == "other"
        await it.pool.unload("a")
        path.unlink()
        write_gguf(path, {"general.name": "Another", "llama.context_length": 256})
        write_model(models, "a")
        assert (await it.pool.load("a")).adapter.name == "fake"


@in_loop
async def test_if_none_starts_the_next_request_begins_anew(models: Path, runtime: Path) -> None:
    write_model(models, "a", exit_at_start=3)
    write_model(models, "a", "other", exit_at_start=4)
    async with rig(models, runtime) as it:
        with pytest.raises(EngineFailed, match="exited with status 4"):
            await it.lease("a")
        assert it.pool.state("a") is EngineState.FAILED
        assert it.pool.switches.last == []
        write_model(models, "a")
        lease = await it.lease("a")
        assert lease.granted.engine == "fake"
        lease.release(DONE)


@in_loop
async def test_three_crashes_are_enough(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        await it.pool.load("a")
        await crash(it, 3)
        lease = await it.lease("a")
        assert lease.granted.engine == "other"
        (handover,) = it.pool.switches.last
        assert handover.reason == "The engine crashed 3 times within 5 minutes."
        lease.release(DONE)


@in_loop
async def test_it_can_be_turned_off(models: Path, runtime: Path) -> None:
    write_model(models, "a", exit_at_start=3)
    async with rig(models, runtime, engine_failover=False) as it:
        with pytest.raises(EngineFailed, match="exited with status 3"):
            await it.lease("a")


@in_loop
async def test_an_engine_that_was_named_never_gives_way(models: Path, runtime: Path) -> None:
    write_model(models, "a", exit_at_start=3)
    async with rig(models, runtime) as it:
        with pytest.raises(EngineFailed, match="exited with status 3"):
            await it.pool.load("a", "fake")
        write_model(models, "a")
        await it.pool.load("a", "fake")
        await crash(it, 3)
        engine = it.engine("a")
        assert engine.adapter.name == "fake"
        assert engine.backoff.recent == 3 and engine.backoff.remaining > 1, "as if it were alone"
        assert it.pool.switches.last == []
