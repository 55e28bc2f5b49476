"""Fairness between callers: who gets the next place, on paper and with real processes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import in_loop, rig, turn
from vllm_obtain.control.messages import ReleaseLease
from vllm_obtain.errors import Overloaded
from vllm_obtain.supervisor.scheduling.fair_queue import FairQueue


@dataclass(eq=False)
class QueuedRequest:
    caller: str
    tokens: int = 10


def order(turns: FairQueue[QueuedRequest]) -> str:
    """Serve everybody; the callers in the order in which they got their places."""
    served = ""
    while turns:
        one = turns.peek()
        turns.remove(one)
        turns.charge(one.caller, one.tokens)
        served += one.caller
    return served


def test_one_caller_is_served_in_order() -> None:
    turns: FairQueue[QueuedRequest] = FairQueue()
    first, second = QueuedRequest("a"), QueuedRequest("a")
    turns.add(first)
    turns.add(second)
    assert turns.peek() is first
    turns.charge("a", 100)
    assert turns.peek() is first


def test_one_request_does_not_wait_for_a_hundred_of_another() -> None:
    turns: FairQueue[QueuedRequest] = FairQueue()
    turns.charge("a", 1000)  # those that run
    for _ in range(100):
        turns.add(QueuedRequest("a"))
    turns.add(QueuedRequest("b"))
    assert order(turns).index("b") <= 1


def test_tokens_count_and_not_requests() -> None:
    turns: FairQueue[QueuedRequest] = FairQueue()
    for _ in range(2):
        turns.add(QueuedRequest("a", 400))
    for _ in range(8):
        turns.add(QueuedRequest("b", 100))
    assert order(turns) == "abbbbabbbb"


def test_nobody_saves_up_turns_while_away() -> None:
    turns: FairQueue[QueuedRequest] = FairQueue()
    for _ in range(10):
        turns.add(QueuedRequest("a", 100))
    assert order(turns) == "a" * 10
    for _ in range(4):
        turns.add(QueuedRequest("b", 100))
        turns.add(QueuedRequest("a", 100))
    assert order(turns).count("b", 0, 4) == 2


def test_what_was_not_used_is_given_back() -> None:
    turns: FairQueue[QueuedRequest] = FairQueue()
    first, second = QueuedRequest("b"), QueuedRequest("a")
    turns.add(first)
    turns.add(second)
    turns.charge("b", 10)
    turns.charge("a", 1000)
    assert turns.peek() is first
    turns.adjust("a", -995)
    assert turns.peek() is second


@in_loop
async def test_keys_share_an_engine(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=1)
    async with rig(models, runtime) as it:
        running = await it.lease("a", key="greedy")
        many = [it.acquire_in_background("a", key="greedy") for _ in range(5)]
        await turn()
        late = it.acquire_in_background("a", key="modest")
        await turn()
        lease, served = running, 0
        while not late.done():
            lease.release(ReleaseLease("stop", prompt_tokens=10, completion_tokens=10))
            done, _ = await asyncio.wait(
                {*many, late}, return_when=asyncio.FIRST_COMPLETED, timeout=5
            )
            (got,) = done
            lease = got.result()
            many = [each for each in many if each is not got]
            served += 1
        assert served <= 2, "behind one of the others at most"
        lease.release(ReleaseLease("stop"))
        for left in many:
            (await left).release(ReleaseLease("stop"))
        assert it.leases.in_flight == 0


@in_loop
async def test_each_model_has_its_own_limits(models: Path, runtime: Path) -> None:
    for name in ("a", "b"):
        write_model(models, name, slots=1)
    file = models.parent / "models.toml"
    file.write_text("[a]\nmax_concurrent_requests = 2\n[b]\nmax_queued_requests = 3\n")
    env = {"model_settings": file, "max_queued_requests": 1, "max_concurrent_models": 2}
    async with rig(models, runtime, **env) as it:
        first = await it.lease("a")
        second = it.acquire_in_background("a")
        await turn()
        with pytest.raises(
            Overloaded, match=r"'a' has 2 running and queued requests.*max_concurrent_requests=2"
        ) as no:
            await it.lease("a")
        assert no.value.status == 429 and no.value.retry_after
        third = await it.lease("b")
        waiting = [it.acquire_in_background("b") for _ in range(3)]
        await turn()
        with pytest.raises(
            Overloaded, match="'b' has 3 queued requests, the limit of its max_queued_requests"
        ):
            await it.lease("b")
        first.release(ReleaseLease("stop"))
        (await second).release(ReleaseLease("stop"))
        third.release(ReleaseLease("stop"))
        for each in waiting:
            (await each).release(ReleaseLease("stop"))
        (await it.lease("a")).release(ReleaseLease("stop"))
        assert it.leases.in_flight == 0


@in_loop
async def test_a_queue_has_an_end(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=1)
    async with rig(models, runtime, max_queued_requests=1) as it:
        first, second = await it.lease("a"), it.acquire_in_background("a")
        await turn()
        with pytest.raises(
            Overloaded, match="'a' has 1 queued requests, the limit of MAX_QUEUED_REQUESTS=1"
        ):
            await it.lease("a")
        first.release(ReleaseLease("stop"))
        (await second).release(ReleaseLease("stop"))
