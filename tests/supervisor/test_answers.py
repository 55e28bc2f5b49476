from __future__ import annotations

import asyncio

import pytest

from tests.supervisor.helpers import in_loop, turn
from vllm_obtain.supervisor import answers
from vllm_obtain.supervisor.answers import Answers


def test_a_miss_makes_a_leader_and_an_answer_a_hit() -> None:
    kept = Answers(10)
    assert kept.try_recall(b"k") == (True, None)
    assert kept.try_recall(b"k") == (False, None)
    kept.remember(b"k", b"answer")
    assert kept.try_recall(b"k") == (True, b"answer")
    assert kept.size == {"entries": 1, "bytes": 6}


def test_the_least_recently_used_goes_first() -> None:
    kept = Answers(2)
    for key in (b"a", b"b"):
        kept.remember(key, key)
    kept.try_recall(b"a")
    kept.remember(b"c", b"c")
    assert kept.try_recall(b"a") == (True, b"a")
    assert kept.try_recall(b"b") == (True, None)
    assert kept.size == {"entries": 2, "bytes": 2}


def test_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_BYTES", 100)
    monkeypatch.setattr(answers, "MAX_ANSWER", 60)
    kept = Answers(1000)
    kept.remember(b"a", bytes(50))
    kept.remember(b"b", bytes(50))
    kept.remember(b"c", bytes(60))
    assert kept.size == {"entries": 1, "bytes": 60}
    kept.remember(b"d", bytes(61))
    assert kept.try_recall(b"d") == (True, None), "too large to keep"
    kept.remember(b"c", bytes(10))
    assert kept.size == {"entries": 1, "bytes": 10}


@in_loop
async def test_followers_get_the_leaders_answer_also_one_too_large_to_keep() -> None:
    kept = Answers(10)
    for answer in (b"small", bytes(answers.MAX_ANSWER + 1)):
        kept.try_recall(answer)
        followers = [asyncio.create_task(kept.follow(answer)) for _ in range(3)]
        await turn()
        kept.remember(answer, answer)
        assert await asyncio.gather(*followers) == [answer] * 3


@in_loop
async def test_the_next_one_leads_when_the_leader_is_gone() -> None:
    kept = Answers(10)
    kept.try_recall(b"k")
    first, second, third = (asyncio.create_task(kept.follow(b"k")) for _ in range(3))
    await turn()
    first.cancel()
    kept.abandon(b"k")
    assert await second is None
    assert not third.done()
    assert kept.try_recall(b"k") == (False, None), "second leads"
    kept.remember(b"k", b"answer")
    assert await third == b"answer"


@in_loop
async def test_a_promoted_one_that_is_gone_passes_it_on() -> None:
    kept = Answers(10)
    kept.try_recall(b"k")
    first, second = (asyncio.create_task(kept.follow(b"k")) for _ in range(2))
    await turn()
    kept.abandon(b"k")  # first leads, but has not run yet
    first.cancel()
    assert await second is None
    kept.abandon(b"k")
    assert kept.try_recall(b"k") == (True, None), "nobody is left"


@in_loop
async def test_following_what_is_over() -> None:
    kept = Answers(10)
    kept.remember(b"k", b"answer")
    assert await kept.follow(b"k") == b"answer"
    assert await kept.follow(b"other") is None
    assert kept.try_recall(b"other") == (False, None)
