"""Fairness between callers: who gets the next place, on paper and with real processes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake_engine import write_model
from tests.supervisor.helpers import in_loop, rig, turn
from vllm_obtain.errors import Overloaded
from vllm_obtain.messages import Release
from vllm_obtain.supervisor.turns import Turns


@dataclass(eq=False)
class One:
    caller: str
    tokens: int = 10


def order(turns: Turns[One]) -> str:
    """Serve everybody; the callers in the order in which they got their places."""
    served = ""
    while turns:
        one = turns.first()
        turns.remove(one)
        turns.gave(one.caller, one.tokens)
        served += one.caller
    return served


def test_one_caller_is_served_in_order() -> None:
    turns: Turns[One] = Turns()
    first, second = One("a"), One("a")
    turns.add(first)
    turns.add(second)
    assert turns.first() is first
    turns.gave("a", 100)
    assert turns.first() is first


def test_one_request_does_not_wait_for_a_hundred_of_another() -> None:
    turns: Turns[One] = Turns()
    turns.gave("a", 1000)  # those that run
    for _ in range(100):
        turns.add(One("a"))
    turns.add(One("b"))
    assert order(turns).index("b") <= 1


def test_tokens_count_and_not_requests() -> None:
    turns: Turns[One] = Turns()
    for _ in range(2):
        turns.add(One("a", 400))
    for _ in range(8):
        turns.add(One("b", 100))
    assert order(turns) == "abbbbabbbb"


def test_nobody_saves_up_turns_while_away() -> None:
    turns: Turns[One] = Turns()
    for _ in range(10):
        turns.add(One("a", 100))
    assert order(turns) == "a" * 10
    for _ in range(4):
        turns.add(One("b", 100))
        turns.add(One("a", 100))
    assert order(turns).count("b", 0, 4) == 2


def test_what_was_not_used_is_given_back() -> None:
    turns: Turns[One] = Turns()
    first, second = One("b"), One("a")
    turns.add(first)
    turns.add(second)
    turns.gave("b", 10)
    turns.gave("a", 1000)
    assert turns.first() is first
    turns.correct("a", -995)
    assert turns.first() is second


@in_loop
async def test_keys_share_an_engine(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=1)
    async with rig(models, runtime) as it:
        running = await it.lease("a", key="greedy")
        many = [it.asked("a", key="greedy") for _ in range(5)]
        await turn()
        late = it.asked("a", key="modest")
        await turn()
        lease, served = running, 0
        while not late.done():
            lease.release(Release("stop", prompt_tokens=10, completion_tokens=10))
            done, _ = await asyncio.wait(
                {*many, late}, return_when=asyncio.FIRST_COMPLETED, timeout=5
            )
            (got,) = done
            lease = got.result()
            many = [each for each in many if each is not got]
            served += 1
        assert served <= 2, "behind one of the others at most"
        lease.release(Release("stop"))
        for left in many:
            (await left).release(Release("stop"))
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
        second = it.asked("a")
        await turn()
        with pytest.raises(
            Overloaded, match=r"2 requests to 'a'.*max_concurrent_requests is 2"
        ) as no:
            await it.lease("a")
        assert no.value.status == 429 and no.value.retry_after
        third = await it.lease("b")
        waiting = [it.asked("b") for _ in range(3)]
        await turn()
        with pytest.raises(
            Overloaded, match="3 requests wait for 'b', and its max_queued_requests"
        ):
            await it.lease("b")
        first.release(Release("stop"))
        (await second).release(Release("stop"))
        third.release(Release("stop"))
        for each in waiting:
            (await each).release(Release("stop"))
        (await it.lease("a")).release(Release("stop"))
        assert it.leases.in_flight == 0


@in_loop
async def test_a_queue_has_an_end(models: Path, runtime: Path) -> None:
    write_model(models, "a", slots=1)
    async with rig(models, runtime, max_queued_requests=1) as it:
        first, second = await it.lease("a"), it.asked("a")
        await turn()
        with pytest.raises(
            Overloaded, match="1 requests wait for 'a', and MAX_QUEUED_REQUESTS is 1"
        ):
            await it.lease("a")
        first.release(Release("stop"))
        (await second).release(Release("stop"))
