"""Engines that have work and make no step, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, in_loop, rig
from tests.waiting import wait_until
from vllm_obtain.control.messages import ReleaseLease
from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.engines.mlx.adapter import Mlx
from vllm_obtain.engines.step_counter import StepReading
from vllm_obtain.engines.vllm.adapter import Vllm
from vllm_obtain.errors import RequestQuarantined
from vllm_obtain.supervisor.engine.states import EngineState
from vllm_obtain.supervisor.leases import Lease
from vllm_obtain.supervisor.scheduling.quarantine import PROBATION

pytestmark = pytest.mark.serial

LLAMA = b"""# HELP llamacpp:n_decode_total Total number of llama_decode() calls
# TYPE llamacpp:n_decode_total counter
llamacpp:n_decode_total 7
llamacpp:requests_processing 0
llamacpp:requests_deferred 2
"""
VLLM = b"""vllm:num_requests_running{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="m"} 3.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 5.0
vllm:iteration_tokens_total_count{engine="1",model_name="m"} 6.0
"""


def test_each_engines_own_counters_are_read() -> None:
    assert LlamaCpp().read_steps(LLAMA) == StepReading(7, True)
    assert Vllm().read_steps(VLLM) == StepReading(11, False)
    assert Mlx().read_steps(b'{"steps": 3, "running": 1, "waiting": 0}') == StepReading(3, True)
    assert Mlx().read_steps(b'{"steps": 3, "waiting": 0}') == StepReading(3, True), "of vectors"
    for engine in (LlamaCpp(), Vllm(), Mlx()):
        assert engine.read_steps(b"") is None


async def ask(lease: Lease, text: str = "a b c d") -> None:
    """Ask as the gateway does, and read to the end."""
    reader, writer = await asyncio.open_unix_connection(lease.granted.socket)
    body = b'{"prompt": "%s", "max_tokens": -1, "stream": true}' % text.encode()
    head = b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    try:
        while await reader.read(4096):
            pass
    finally:
        writer.close()


@pytest.mark.parametrize("fault", ["hang_after_tokens", "freeze_after_tokens"])
@in_loop
async def test_one_that_makes_no_step_is_ended_and_started_again(
    fault: str, models: Path, runtime: Path
) -> None:
    more: dict[str, Any] = {fault: 2}
    write_model(models, "a", **more)
    async with rig(models, runtime, stall_seconds=2.0) as it:
        it.pool.watch()
        lease = await it.lease("a")
        engine = it.engine("a")
        pid = engine.pid
        asking = asyncio.create_task(ask(lease))
        await wait_until(lambda: not engine.healthy)
        assert engine.pid == pid and engine.state is EngineState.READY, (
            "it is told before it is ended"
        )
        await asking  # its connection breaks
        lease.release(ReleaseLease("error", lost=True))
        # A frozen process does not end when it is asked to.
        await wait_until(lambda: engine.state is EngineState.READY and engine.pid != pid, 40)
        assert (engine.stalls, engine.restarts, engine.healthy) == (1, 1, True)
        counted = it.numbers.registry.get_sample_value
        labels = {"model": "a", "engine": "fake"}
        assert counted("vllm_obtain_engine_stalls_total", labels) == 1


@in_loop
async def test_a_request_that_stalls_its_engine_alone_is_quarantined(
    models: Path, runtime: Path
) -> None:
    write_model(models, "a", hang_after_tokens=0)
    async with rig(models, runtime, stall_seconds=0.3) as it:
        it.pool.watch()
        for stalls in (1, 2):
            lease = await it.lease("a", fingerprint=b"f")
            await ask(lease)
            lease.release(ReleaseLease("error", lost=True))
            await wait_until(lambda: it.engine("a").restarts == stalls)  # noqa: B023 - waits at once
            await wait_until(lambda: it.engine("a").state is EngineState.READY)
            if stalls == 1:
                assert it.pool.quarantine.check(b"f", "fake") == PROBATION
        with pytest.raises(RequestQuarantined, match="stalled"):
            it.pool.quarantine.check(b"f", "fake")


@in_loop
async def test_a_long_prompt_that_advances_is_no_stall(models: Path, runtime: Path) -> None:
    write_model(models, "a", prompt_seconds=1.5)
    async with rig(models, runtime, stall_seconds=0.4) as it:
        it.pool.watch()
        lease = await it.lease("a")
        pid = it.engine("a").pid
        await ask(lease)
        lease.release(DONE)
        assert (it.engine("a").pid, it.engine("a").stalls) == (pid, 0)


@in_loop
async def test_a_client_that_reads_slowly_is_no_stall(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime, stall_seconds=0.3) as it:
        it.pool.watch()
        lease = await it.lease("a")  # the engine is done with it, and its client is not
        pid = it.engine("a").pid
        await asyncio.sleep(1)
        lease.release(DONE)
        assert (it.engine("a").pid, it.engine("a").stalls) == (pid, 0)


@in_loop
async def test_an_idle_engine_may_be_stopped(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime, stall_seconds=0.2) as it:
        it.pool.watch()
        pid = (await it.pool.load("a")).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0.5)
        os.kill(pid, signal.SIGCONT)
        assert it.engine("a").pid == pid
