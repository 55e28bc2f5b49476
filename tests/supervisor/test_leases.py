"""Who may use an engine: slots, tokens, queues, limits, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import DONE, Rig, acquire_message, descriptors, in_loop, rig, turn
from tests.waiting import wait_until
from vllm_obtain.control.messages import EngineLimits, ReleaseLease
from vllm_obtain.errors import Overloaded, RequestTimeout
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.leases import Lease
from vllm_obtain.supervisor.scheduling.admission import AdmissionQueue


@in_loop
async def test_what_a_lease_says(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=2, pool_tokens=2000, context=500)
    async with rig(models, runtime) as it:
        lease = await it.lease("a", prompt_tokens=100, max_tokens=50)
        granted, engine = lease.granted, it.engine("a")
        assert (granted.engine, granted.model, granted.context) == ("fake", "a", 500)
        assert (granted.tokens, granted.socket) == (50, str(engine.socket))
        assert granted.loaded_at == engine.loaded_at
        assert Path(granted.socket).is_socket()
        lease.release(DONE)


@in_loop
async def test_slots_are_given_in_order(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=2)
    async with rig(models, runtime) as it:
        first, second = await it.lease("a"), await it.lease("a")
        third, fourth = it.acquire_in_background("a"), it.acquire_in_background("a")
        await turn()
        assert it.engine("a").users == 4
        first.release(DONE)
        lease = await third
        assert not fourth.done()
        lease.release(DONE)
        (await fourth).release(DONE)
        second.release(DONE)
        assert it.leases.in_flight == it.engine("a").users == 0


@in_loop
async def test_tokens_are_given_in_order(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=8, pool_tokens=1000, context=1000)
    async with rig(models, runtime) as it:
        first = await it.lease("a", prompt_tokens=500, max_tokens=100)
        large = it.acquire_in_background("a", prompt_tokens=300, max_tokens=200)
        small = it.acquire_in_background("a", prompt_tokens=5, max_tokens=5)
        await turn()
        assert not large.done(), "600 of 1000 are taken"
        assert not small.done(), "nobody overtakes"
        first.adjust(400)  # the bytes were fewer tokens
        (await large).release(DONE)
        (await small).release(DONE)
        first.release(DONE)


@in_loop
async def test_extending(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=2, pool_tokens=1000, context=1000)
    async with rig(models, runtime) as it:
        open_ended = await it.lease("a", prompt_tokens=100, max_tokens=None)
        assert 256 <= open_ended.granted.tokens < 900
        free = 900 - open_ended.granted.tokens
        assert open_ended.extend(100) == 100
        assert open_ended.extend(10_000) == free - 100
        assert open_ended.extend(1) == 0
        open_ended.release(DONE)
        assert open_ended.extend(1) == 0, "it is over"


@in_loop
async def test_giving_up_frees_the_place_in_the_queue(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=1)
    async with rig(models, runtime) as it:
        lease = await it.lease("a")
        leaver, stayer = it.acquire_in_background("a"), it.acquire_in_background("a")
        await turn()
        leaver.cancel()
        await turn()
        assert it.leases.in_flight == it.engine("a").users == 2
        lease.release(DONE)
        (await stayer).release(DONE)


@in_loop
async def test_giving_up_in_the_moment_of_the_grant(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=1)
    async with rig(models, runtime) as it:
        lease = await it.lease("a")
        unlucky, next_one = it.acquire_in_background("a"), it.acquire_in_background("a")
        await turn()
        lease.release(DONE)  # unlucky has its place now, but has not run yet
        unlucky.cancel()
        (await next_one).release(DONE)
        assert it.leases.in_flight == it.engine("a").users == 0


@in_loop
async def test_too_many_requests(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=1)
    async with rig(models, runtime, max_concurrent_requests=2) as it:
        lease = await it.lease("a")
        waiting = it.acquire_in_background("a")
        await turn()
        with pytest.raises(Overloaded) as caught:
            await it.lease("a")
        assert caught.value.status == 429
        assert caught.value.retry_after is not None
        assert 1 <= caught.value.retry_after <= 120
        assert "MAX_CONCURRENT_REQUESTS=2" in caught.value.message
        lease.release(DONE)
        (await waiting).release(DONE)
        (await it.lease("a")).release(DONE)


@in_loop
async def test_waiting_until_the_timeout(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=1)
    write_model(models, "b", never_ready=True)
    async with rig(models, runtime, max_concurrent_models=2) as it:
        lease = await it.lease("a")
        for name in "ab":
            with pytest.raises(RequestTimeout) as caught:
                await it.lease(name, timeout=0.05)
            assert caught.value.code == "request_timeout"
            assert caught.value.status == 504
        assert it.leases.in_flight == it.engine("a").users == 1
        assert it.engine("b").waiting == 0
        lease.release(DONE)


@in_loop
async def test_a_lease_ends_once(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        lease = await it.lease("a")
        lease.release(ReleaseLease("stop", completion_tokens=3))
        lease.release(ReleaseLease("cancelled"))
        assert it.leases.in_flight == 0
        assert count(it, "inference_requests_total", outcome="stop") == 1
        assert count(it, "inference_requests_total", outcome="cancelled") == 0


@in_loop
async def test_a_lease_outlives_its_process(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        old = await it.lease("a")
        pid = it.engine("a").pid
        os.kill(pid or 0, 9)
        await wait_until(lambda: it.engine("a").restarts)
        new = await it.lease("a")
        old.adjust(5)
        assert old.granted.loaded_at < new.granted.loaded_at
        old.release(DONE)
        assert it.engine("a").users == 1
        new.release(DONE)
        assert it.leases.in_flight == it.engine("a").users == 0


@in_loop
async def test_two_hundred_leases_leave_no_descriptor(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=4)
    async with rig(models, runtime) as it:

        async def use() -> Lease:
            lease = await it.lease("a")
            await asyncio.sleep(0)
            lease.release(DONE)
            return lease

        await use()
        before = descriptors()
        for _ in range(10):
            await asyncio.gather(*(use() for _ in range(20)))
        assert descriptors() <= before
        assert it.engine("a").users == it.leases.in_flight == 0


@in_loop
async def test_restarts_leave_no_descriptor(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        counts = []
        for _ in range(4):
            await it.pool.load("a")
            await it.pool.unload("a")
            await turn()
            counts.append(descriptors())
        assert counts[-1] == counts[0]


def count(it: Rig, name: str, **labels: str) -> float | None:
    return it.numbers.registry.get_sample_value(
        f"vllm_obtain_{name}", {"model": "a", "engine": "fake", **labels}
    )


LOST = ReleaseLease("error", lost=True)


@in_loop
async def test_a_broken_connection_is_looked_into_before_the_next_request(
    models: Path, runtime: Path
) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        lease, other = await it.lease("a"), await it.lease("a")
        pid = it.engine("a").pid
        os.kill(pid or 0, signal.SIGKILL)
        lease.release(LOST)
        assert it.leases.try_acquire(acquire_message("a")) is None, "its end has not been seen yet"
        following = await it.lease("a")
        assert following.granted.loaded_at > lease.granted.loaded_at
        assert it.engine("a").pid != pid
        other.release(LOST)
        assert it.pool.ready_engine("a"), "that was the process before"
        following.release(DONE)


@in_loop
async def test_an_engine_that_answers_is_trusted_again(models: Path, runtime: Path) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        lease = await it.lease("a")
        lease.release(LOST)
        assert it.pool.ready_engine("a") is None
        again = await it.lease("a")
        assert again.granted.loaded_at == lease.granted.loaded_at
        assert it.engine("a").restarts == 0
        again.release(DONE)


@in_loop
async def test_a_request_admitted_by_a_process_that_has_just_ended_waits_for_the_next_one(
    models: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(models, "a")
    async with rig(models, runtime) as it:
        engine = await it.pool.load("a")
        ended = AdmissionQueue()
        queues = [ended]
        queue = property(lambda engine: queues.pop() if queues else engine.admission)
        monkeypatch.setattr(Engine, "queue_for_new_requests", queue)
        waiting = asyncio.create_task(it.leases.acquire(acquire_message("a")))
        await turn()
        assert not queues and not waiting.done()
        ended.open(EngineLimits(1, 100, 100), "fake", isolates_by_slot=False)
        lease = await waiting
        assert (ended.in_flight, engine.users) == (0, 1)
        lease.release(DONE)
        assert it.leases.in_flight == engine.users == 0
