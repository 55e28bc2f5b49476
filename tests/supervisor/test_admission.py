from __future__ import annotations

import asyncio

import pytest

from tests.supervisor.helpers import in_loop, turn
from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.errors import EngineFailed, InvalidRequest
from vllm_obtain.supervisor.scheduling.admission import AdmissionQueue, EngineGone, Ticket

LIMITS = EngineLimits(slots=4, pool_tokens=1000, context=400)


@pytest.mark.parametrize(
    ("prompt", "wanted", "reserved", "granted"),
    [
        (10, 20, 30, 20),
        (10, 1000, 400, 390),  # no more than the context holds
        (500, 10, 400, 0),  # the bound is too high: the engine will tell
        (399, None, 400, 1),
        (0, None, 256, 256),
        (200, None, 400, 200),
    ],
)
def test_what_one_request_reserves(
    prompt: int, wanted: int | None, reserved: int, granted: int
) -> None:
    places, ticket = AdmissionQueue(LIMITS), Ticket(prompt, wanted)
    assert places.try_acquire(ticket)
    assert (places.reserved, ticket.granted) == (reserved, granted)
    places.release(ticket)
    places.release(ticket)
    assert (places.reserved, places.in_flight) == (0, 0)


def test_an_open_end_takes_a_share_of_a_large_pool() -> None:
    places = AdmissionQueue(EngineLimits(slots=4, pool_tokens=100_000, context=50_000))
    ticket = Ticket(1000, None)
    assert places.try_acquire(ticket)
    assert ticket.granted == 99_000 // 4


def test_a_context_larger_than_the_pool_can_be_used_up_to_the_pool() -> None:
    places = AdmissionQueue(EngineLimits(slots=4, pool_tokens=100, context=400))
    ticket = Ticket(300, 300)
    assert places.try_acquire(ticket)
    assert places.reserved == 100


def test_slots_and_tokens_both_count() -> None:
    few_slots = AdmissionQueue(EngineLimits(slots=1, pool_tokens=1000, context=400))
    assert few_slots.try_acquire(Ticket(1, 1))
    assert not few_slots.try_acquire(Ticket(1, 1))
    few_tokens = AdmissionQueue(EngineLimits(slots=9, pool_tokens=1000, context=600))
    assert few_tokens.try_acquire(Ticket(300, 300))
    assert not few_tokens.try_acquire(Ticket(300, 300))
    assert few_tokens.try_acquire(Ticket(100, 300))


@pytest.mark.parametrize(
    ("wanted", "true_prompt", "reserved", "granted"),
    [(100, 50, 150, 100), (300, 50, 350, 300), (300, 200, 400, 200), (None, 50, 150, 100)],
)
def test_adjusting_the_reservation(
    wanted: int | None, true_prompt: int, reserved: int, granted: int
) -> None:
    places, ticket = AdmissionQueue(LIMITS), Ticket(300, wanted)
    places.try_acquire(ticket)
    places.adjust(ticket, true_prompt)
    assert (places.reserved, ticket.granted) == (reserved, granted)
    places.release(ticket)
    assert places.reserved == 0
    places.adjust(ticket, 7)
    assert places.reserved == 0


def test_extending_ends_at_the_pool_even_if_somebody_waits() -> None:
    places, ticket = AdmissionQueue(LIMITS), Ticket(100, None)
    places.try_acquire(ticket)
    assert places.extend(ticket, 512) == 512
    assert places.extend(ticket, 512) == 1000 - 512 - 100 - 256
    assert places.extend(ticket, 512) == 0
    assert places.reserved == 1000
    places.release(ticket)
    assert places.reserved == 0
    assert places.extend(ticket, 1) == 0


@in_loop
async def test_nobody_overtakes() -> None:
    places = AdmissionQueue(EngineLimits(slots=2, pool_tokens=1000, context=1000))
    running, large, small = Ticket(500, 0), Ticket(600, 0), Ticket(1, 1)
    places.try_acquire(running)
    order: list[str] = []

    async def enter(name: str, ticket: Ticket) -> None:
        await places.acquire(ticket)
        order.append(name)

    tasks = [asyncio.create_task(enter("large", large)), asyncio.create_task(enter("small", small))]
    await turn()
    assert (order, places.queue, places.in_flight) == ([], 2, 1)
    assert not places.try_acquire(Ticket(1, 1))
    places.release(running)
    await asyncio.gather(*tasks)
    assert (order, places.queue, places.in_flight) == (["large", "small"], 0, 2)


@in_loop
async def test_adjusting_the_reservation_and_leaving_the_queue_let_others_in() -> None:
    places = AdmissionQueue(EngineLimits(slots=3, pool_tokens=1000, context=1000))
    running, large, small = Ticket(500, 0), Ticket(600, 0), Ticket(300, 0)
    places.try_acquire(running)
    first, second = (asyncio.create_task(places.acquire(ticket)) for ticket in (large, small))
    await turn()
    first.cancel()
    await second
    third = asyncio.create_task(places.acquire(large))
    await turn()
    assert not third.done()
    places.adjust(running, 100)
    await third


@in_loop
async def test_places_that_open_later() -> None:
    places = AdmissionQueue()
    tickets = [Ticket(10, 10) for _ in range(6)]
    tasks = [asyncio.create_task(places.acquire(ticket)) for ticket in tickets]
    await turn()
    assert (places.queue, places.in_flight) == (6, 0)
    tasks[1].cancel()
    await turn()
    places.open(LIMITS, "fake", isolates_by_slot=False)
    assert (places.queue, places.in_flight) == (1, 4), "they are in before they have run"
    await asyncio.gather(tasks[0], *tasks[2:5])
    places.release(tickets[0])
    await tasks[5]


@in_loop
async def test_closing_sends_those_who_wait_away() -> None:
    places = AdmissionQueue(EngineLimits(slots=1, pool_tokens=100, context=100))
    running = Ticket(1, 1)
    places.try_acquire(running)
    waiting = asyncio.create_task(places.acquire(Ticket(1, 1)))
    await turn()
    places.close()
    with pytest.raises(EngineGone):
        await waiting
    with pytest.raises(EngineGone):
        await places.acquire(Ticket(1, 1))
    places.release(running)
    assert not places.try_acquire(Ticket(1, 1))


@in_loop
async def test_closing_with_a_reason() -> None:
    places = AdmissionQueue()
    waiting = asyncio.create_task(places.acquire(Ticket(1, 1)))
    await turn()
    places.close(EngineFailed("no such file"))
    with pytest.raises(EngineFailed, match="no such file"):
        await waiting


@pytest.mark.parametrize(
    ("prompt", "wanted", "choices", "reserved"),
    [
        (10, 20, 3, 70),
        (100, 200, 4, 900),
        # The bound of the prompt is too high; were it 300, the choices would take most.
        (400, 100, 3, 600),
        (100, None, 2, 612),
        (300, None, 4, 700),
    ],
)
def test_what_several_choices_reserve(
    prompt: int, wanted: int | None, choices: int, reserved: int
) -> None:
    places, ticket = AdmissionQueue(LIMITS), Ticket(prompt, wanted, choices)
    assert places.try_acquire(ticket)
    assert places.reserved == reserved
    # Whatever the prompt turns out to be, what was reserved is enough.
    for true_prompt in range(prompt, 0, -7):
        places.adjust(ticket, true_prompt)
        assert places.reserved <= reserved
    places.release(ticket)
    assert places.reserved == 0


def test_each_choice_takes_a_slot() -> None:
    places = AdmissionQueue(LIMITS)
    several = Ticket(1, 1, 3)
    assert places.try_acquire(several)
    assert not places.try_acquire(Ticket(1, 1, 2))
    assert places.try_acquire(Ticket(1, 1))
    assert not places.try_acquire(Ticket(1, 1))
    places.release(several)
    assert places.try_acquire(Ticket(1, 1, 3))


@in_loop
async def test_choices_that_can_never_fit_are_refused_at_once_or_when_it_is_known() -> None:
    places = AdmissionQueue(LIMITS)
    with pytest.raises(InvalidRequest, match="limit of 4 parallel sequences") as caught:
        places.try_acquire(Ticket(1, 1, 5))
    assert caught.value.param == "n"
    with pytest.raises(InvalidRequest, match=r"1300 tokens.*1000"):
        await places.acquire(Ticket(100, 300, 4))
    later = AdmissionQueue()
    tickets = [Ticket(1, 1), Ticket(1, 1, 5), Ticket(1, 1)]
    tasks = [asyncio.create_task(later.acquire(ticket)) for ticket in tickets]
    await turn()
    later.open(LIMITS, "fake", isolates_by_slot=False)
    await asyncio.gather(tasks[0], tasks[2])
    with pytest.raises(InvalidRequest, match="limit of 4 parallel sequences"):
        await tasks[1]
    assert (later.in_flight, later.queue) == (2, 0)
