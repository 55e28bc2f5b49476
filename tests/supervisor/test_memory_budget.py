"""Memory: what is reserved, who makes room for whom, and what is refused; real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.fake_engine import FakeAdapter, write_model
from tests.supervisor.helpers import DONE, Rig, in_loop, rig, settings_for
from tests.supervisor.test_stall_watchdog import ask
from tests.waiting import wait_until
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.adapter import LaunchSpec, Sizing
from vllm_obtain.errors import EngineFailed, InsufficientMemory, SettingsError
from vllm_obtain.hardware.machine import Machine, describe
from vllm_obtain.models import Model
from vllm_obtain.supervisor.engine.states import EngineState
from vllm_obtain.supervisor.memory import pressure

MIB = 2**20
# Two of the fake engine do not fit, one does.
FOR_ONE = "30M"


def weighing(it: Rig, monkeypatch: pytest.MonkeyPatch, size: Callable[[bool], int]) -> list[bool]:
    """Have every engine weigh what is said; returns how it is asked for, exactly or at most."""
    asked: list[bool] = []

    async def weigh(pids: Sequence[int], exactly: bool) -> dict[int, int | None]:
        asked.append(exactly)
        return dict.fromkeys(pids, size(exactly))

    monkeypatch.setattr(it.pool.pressure, "_measure", weigh)
    return asked


def test_a_limit_is_a_share_or_bytes(models: Path) -> None:
    for given, expected in [("0.5", 0.5), ("1", 1), ("24G", 24 * 2**30), ("800 MiB", 800 * MIB)]:
        assert settings_for(models, memory_limit=given).memory_limit == expected
    for wrong in ("0", "-1", "1.5", "12k", "lots"):
        with pytest.raises(SettingsError, match="MEMORY_LIMIT"):
            settings_for(models, memory_limit=wrong)


@in_loop
async def test_models_make_room_by_their_bytes(models: Path, runtime: Path) -> None:
    for name in "abc":
        write_model(models, name)
    async with rig(models, runtime, max_concurrent_models=9, memory_limit="100M") as it:
        one = (await it.pool.load("a")).reserved
        assert 16 * MIB < one < 30 * MIB
    limit = str(int(one * 2.5))
    async with rig(models, runtime, max_concurrent_models=9, memory_limit=limit) as it:
        for name in "abc":
            await it.pool.load(name)
        assert [it.pool.state(name) for name in "abc"] == [
            EngineState.STOPPED,
            EngineState.READY,
            EngineState.READY,
        ]
        assert it.pool.memory_budget.reserved == 2 * one


@in_loop
async def test_a_load_under_way_holds_its_memory(models: Path, runtime: Path) -> None:
    write_model(models, "a", slow_start=str(models / "go"))
    write_model(models, "b")
    async with rig(models, runtime, max_concurrent_models=9, memory_limit=FOR_ONE) as it:
        first = asyncio.create_task(it.pool.load("a"))
        await wait_until(lambda: it.pool.state("a") is EngineState.STARTING)
        assert it.pool.memory_budget.reserved == it.engine("a").reserved > 0
        second = asyncio.create_task(it.pool.load("b"))
        (models / "go").touch()
        await first
        await second
        assert it.pool.state("a") is EngineState.STOPPED, "both do not fit"


@in_loop
async def test_what_cannot_fit_is_refused_with_the_numbers(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime, memory_limit="10M") as it:
        with pytest.raises(InsufficientMemory) as caught:
            await it.lease("a")
        error = caught.value
        assert (error.status, error.code, error.retry) == (507, "insufficient_memory", False)
        assert "0.01 GB (MEMORY_LIMIT)" in error.message
        assert "To make it fit" in error.message
        assert it.leases.in_flight == 0 and it.engine("a").last_error == error.message


@in_loop
async def test_pinned_models_hold_theirs(models: Path, runtime: Path, tmp_path: Path) -> None:
    write_model(models, "a")
    write_model(models, "b")
    table = tmp_path / "models.toml"
    table.write_text("[a]\npin = true\n")
    more = {"max_concurrent_models": 2, "model_settings": table, "memory_limit": FOR_ONE}
    async with rig(models, runtime, **more) as it:
        await it.pool.load("a")
        with pytest.raises(InsufficientMemory, match="pinned models use"):
            await it.pool.load("b")
        assert it.pool.state("a") is EngineState.READY


@in_loop
async def test_the_cache_is_planned_smaller_before_a_model_is_refused(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, launched = [], []
    plan, launch = FakeAdapter.plan, FakeAdapter.launch

    def sized(adapter: FakeAdapter, model: Model, settings: Settings, machine: Machine) -> Sizing:
        sizing = plan(adapter, model, settings, machine)
        tokens = sizing.limits.pool_tokens * machine.memory_bytes // (100 * MIB)
        limits = msgspec.structs.replace(sizing.limits, pool_tokens=tokens)
        planned.append((machine.memory_bytes, limits))
        return Sizing(limits)

    def noted(adapter: FakeAdapter, model: Model, sizing: Sizing, socket: Path) -> LaunchSpec:
        launched.append(sizing.limits)
        return launch(adapter, model, sizing, socket)

    monkeypatch.setattr(FakeAdapter, "plan", sized)
    monkeypatch.setattr(FakeAdapter, "launch", noted)
    write_model(models, "a", pool_tokens=2**19)
    async with rig(models, runtime, memory_limit="100M") as it:
        engine = await it.pool.load("a")
        assert [memory for memory, _ in planned] == [100 * MIB, 75 * MIB, 50 * MIB]
        assert launched == [planned[-1][1]] == [engine.limits]
    planned.clear()
    async with rig(models, runtime) as it:
        await it.pool.load("a")
        assert planned[0][0] == describe().memory_bytes, "the engine's own rules hold"


@in_loop
async def test_what_cannot_be_planned_is_refused_before_another_model_is_evicted(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(models, "a")
    write_model(models, "b")
    async with rig(models, runtime, max_concurrent_models=1) as it:
        await it.pool.load("a")

        def broken(*_: object) -> Sizing:
            raise ValueError("no such header")

        monkeypatch.setattr(FakeAdapter, "plan", broken)
        with pytest.raises(EngineFailed, match="'b': ValueError: no such header") as caught:
            await it.pool.load("b")
        assert (caught.value.code, caught.value.status) == ("model_load_failed", 503)
        assert it.pool.state("a") is EngineState.READY
        assert it.engine("b").last_error == caught.value.message


@in_loop
async def test_one_that_grows_gets_no_more_requests_and_is_started_again(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "INTERVAL", 0.05)
    monkeypatch.setattr(pressure, "NEAR", 0.5)
    write_model(models, "a", grow_mib=5, pace=0.03)
    async with rig(models, runtime, memory_limit="200M") as it:
        it.pool.watch()
        lease = await it.lease("a")
        engine = it.engine("a")
        pid = engine.pid
        asking = asyncio.create_task(ask(lease, "word " * 60))
        await wait_until(lambda: engine.paused)
        assert engine.state is EngineState.READY and engine.pid == pid
        waiting = it.acquire_in_background("a")
        await asking
        lease.release(DONE)
        (await waiting).release(DONE)
        assert engine.pid != pid and engine.stalls == 1
        assert not engine.paused, "its successor is small"


@in_loop
async def test_one_that_is_large_from_the_start_is_left_alone(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(models, "a")
    async with rig(models, runtime, memory_limit="100M") as it:
        engine = await it.pool.load("a")
        pid = engine.pid
        weighing(it, monkeypatch, lambda _: 150 * MIB)
        for _ in range(3):
            await it.pool.pressure.check()
        assert engine.pid == pid and not engine.paused


@in_loop
async def test_what_memory_really_takes_is_added_up_where_it_could_be_too_much(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(models, "a")
    async with rig(models, runtime, memory_limit="100M") as it:
        engine = await it.pool.load("a")
        most = 40 * MIB
        asked = weighing(it, monkeypatch, lambda exactly: 30 * MIB if exactly else most)
        it.pool.pressure._first.clear()
        for _ in range(3):
            await it.pool.pressure.check()
        assert asked == [True, False, False], "a process is added up once, then looked at"
        most = 150 * MIB
        await it.pool.pressure.check()
        assert asked[3:] == [False, True]
        assert not engine.paused, "what others share does not count"
