from __future__ import annotations

import asyncio

import pytest

from tests.supervisor.helpers import in_loop, turn
from vllm_obtain.supervisor import response_cache
from vllm_obtain.supervisor.response_cache import ResponseCache


def test_a_miss_makes_a_leader_and_an_answer_a_hit() -> None:
    cache = ResponseCache(10)
    assert cache.try_lookup(b"k") == (True, None)
    assert cache.try_lookup(b"k") == (False, None)
    cache.store(b"k", b"answer")
    assert cache.try_lookup(b"k") == (True, b"answer")
    assert cache.size == {"entries": 1, "bytes": 6}


def test_the_least_recently_used_goes_first() -> None:
    cache = ResponseCache(2)
    for key in (b"a", b"b"):
        cache.store(key, key)
    cache.try_lookup(b"a")
    cache.store(b"c", b"c")
    assert cache.try_lookup(b"a") == (True, b"a")
    assert cache.try_lookup(b"b") == (True, None)
    assert cache.size == {"entries": 2, "bytes": 2}


def test_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_cache, "MAX_BYTES", 100)
    monkeypatch.setattr(response_cache, "MAX_RESPONSE_BYTES", 60)
    cache = ResponseCache(1000)
    cache.store(b"a", bytes(50))
    cache.store(b"b", bytes(50))
    cache.store(b"c", bytes(60))
    assert cache.size == {"entries": 1, "bytes": 60}
    cache.store(b"d", bytes(61))
    assert cache.try_lookup(b"d") == (True, None), "too large to keep"
    cache.store(b"c", bytes(10))
    assert cache.size == {"entries": 1, "bytes": 10}


@in_loop
async def test_followers_get_the_leaders_answer_also_one_too_large_to_keep() -> None:
    cache = ResponseCache(10)
    for answer in (b"small", bytes(response_cache.MAX_RESPONSE_BYTES + 1)):
        cache.try_lookup(answer)
        followers = [asyncio.create_task(cache.wait_for_leader(answer)) for _ in range(3)]
        await turn()
        cache.store(answer, answer)
        assert await asyncio.gather(*followers) == [answer] * 3


@in_loop
async def test_the_next_one_leads_when_the_leader_is_gone() -> None:
    cache = ResponseCache(10)
    cache.try_lookup(b"k")
    first, second, third = (asyncio.create_task(cache.wait_for_leader(b"k")) for _ in range(3))
    await turn()
    first.cancel()
    cache.abandon(b"k")
    assert await second is None
    assert not third.done()
    assert cache.try_lookup(b"k") == (False, None), "second leads"
    cache.store(b"k", b"answer")
    assert await third == b"answer"


@in_loop
async def test_a_promoted_one_that_is_gone_passes_it_on() -> None:
    cache = ResponseCache(10)
    cache.try_lookup(b"k")
    first, second = (asyncio.create_task(cache.wait_for_leader(b"k")) for _ in range(2))
    await turn()
    cache.abandon(b"k")  # first leads, but has not run yet
    first.cancel()
    assert await second is None
    cache.abandon(b"k")
    assert cache.try_lookup(b"k") == (True, None), "nobody is left"


@in_loop
async def test_following_what_is_over() -> None:
    cache = ResponseCache(10)
    cache.store(b"k", b"answer")
    assert await cache.wait_for_leader(b"k") == b"answer"
    assert await cache.wait_for_leader(b"other") is None
    assert cache.try_lookup(b"other") == (False, None)
