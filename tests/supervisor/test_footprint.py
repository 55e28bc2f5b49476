"""Engines that use more memory than was reserved for them, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, Rig, in_loop, rig
from tests.supervisor.test_stall_watchdog import ask
from tests.waiting import wait_until
from vllm_obtain.control.messages import ReleaseLease
from vllm_obtain.errors import RequestQuarantined
from vllm_obtain.hardware.host import oom_kills
from vllm_obtain.supervisor.engine import engine as engine_module
from vllm_obtain.supervisor.engine.states import EngineState
from vllm_obtain.supervisor.memory import footprint

MIB = 2**20


async def grow(it: Rig, words: int) -> None:
    """Send a request whose engine takes `grow_mib` for each word."""
    lease = await it.lease("a", fingerprint=b"f")
    await ask(lease, "word " * words)
    lease.release(ReleaseLease("error", lost=True))


@in_loop
async def test_an_engine_above_its_limit_is_ended_and_its_request_is_a_suspect(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "INTERVAL", 0.02)
    monkeypatch.setattr(footprint, "SLACK", 64 * MIB)
    write_model(models, "a", grow_mib=8, pace=0.01)
    async with rig(models, runtime) as it:
        it.pool.watch()
        for _ in range(2):
            engine = await it.pool.load("a")
            pid = engine.pid
            await grow(it, 2000)
            await wait_until(lambda: engine.pid not in (pid, None))  # noqa: B023 - waits at once
            await wait_until(lambda: engine.state is EngineState.READY)  # noqa: B023 - as above
        assert engine.restarts == 2
        with pytest.raises(RequestQuarantined, match="memory limit"):
            it.pool.quarantine.check(b"f", "fake")


@in_loop
async def test_an_engine_within_its_limit_is_left_alone(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "INTERVAL", 0.01)
    write_model(models, "a", grow_mib=4, pace=0.01)
    async with rig(models, runtime) as it:
        it.pool.watch()
        lease = await it.lease("a")
        pid = it.engine("a").pid
        await ask(lease, "word " * 40)
        lease.release(DONE)
        assert (it.engine("a").pid, it.engine("a").restarts) == (pid, 0)


@in_loop
async def test_an_engine_that_was_large_after_its_load_is_left_alone(
    models: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate was wrong; a restart would not help."""
    write_model(models, "a", hang_before_first_byte=tmp_path / "go")
    async with rig(models, runtime) as it:
        lease = await it.lease("a")
        engine = it.engine("a")
        asking = asyncio.create_task(ask(lease))
        sizes = iter([9_000 * MIB, 9_100 * MIB, 10_000 * MIB])

        async def measure(pids: list[int], exactly: bool) -> dict[int, int]:
            return dict.fromkeys(pids, next(sizes))

        monkeypatch.setattr(it.pool._footprints, "_measure", measure)
        for _ in range(2):
            await it.pool._footprints.check()
        assert engine.state is EngineState.READY
        assert next(sizes, None) is None, "each check measured"
        (tmp_path / "go").touch()
        await asking
        lease.release(DONE)


@pytest.mark.parametrize(("counted", "suspected"), [(1, True), (0, False)])
@in_loop
async def test_a_request_is_a_suspect_if_the_system_ran_out_of_memory(
    counted: int,
    suspected: bool,
    models: Path,
    runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kills = 7
    monkeypatch.setattr(engine_module, "oom_kills", lambda: kills)
    write_model(models, "a", hang_before_first_byte=runtime / "never")
    async with rig(models, runtime) as it:
        await it.lease("a", fingerprint=b"f")
        engine = it.engine("a")
        pid = engine.pid or 0
        kills += counted
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: engine.state is EngineState.READY and engine.pid != pid)
        assert bool(it.pool.quarantine.check(b"f", "fake")) is suspected
        (crash,) = [line for line in caplog.records if line.getMessage() == "engine crashed"]
        assert ("out of memory" in crash.context["reason"]) is suspected


def test_the_systems_counter_is_read() -> None:
    assert oom_kills() >= 0
