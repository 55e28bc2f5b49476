"""Which slot a caller's prompt goes to, and whether what is there may be used."""

from __future__ import annotations

from tests.supervisor.helpers import in_loop, turn
from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.protocol.cache_isolation import compute_prefix_hashes
from vllm_obtain.supervisor.scheduling.admission import AdmissionQueue, Ticket
from vllm_obtain.supervisor.scheduling.slot_affinity import SlotAffinity

LONG = "You are helpful. " * 40
ONE, OTHER = compute_prefix_hashes("one", LONG), compute_prefix_hashes("other", LONG)


def test_a_callers_own_prompt_is_found_again_and_nobody_elses() -> None:
    slots = SlotAffinity(2)
    assert slots.take(ONE) == (0, True)
    slots.release(0, used=True)
    assert slots.take(ONE) == (0, False)
    slots.release(0, used=True)
    assert slots.take(OTHER) == (1, True)
    slots.release(1, used=True)
    third = compute_prefix_hashes("third", LONG)
    assert slots.take(third) == (0, True), "the one used longest ago, emptied first"


def test_another_conversation_takes_another_slot_while_there_are_some() -> None:
    slots = SlotAffinity(2)
    first, second = (
        compute_prefix_hashes("one", LONG + "a" * 4000),
        compute_prefix_hashes("one", "b" * 4000),
    )
    slots.release(slots.take(first)[0], used=True)
    slots.release(slots.take(second)[0], used=True)
    assert slots.take(compute_prefix_hashes("one", LONG + "a" * 9000)) == (0, False), (
        "the first one goes on"
    )
    assert slots.take(compute_prefix_hashes("one", "c" * 4000)) == (1, False), (
        "its own all the same"
    )


def test_who_never_asked_leaves_the_slot_a_strangers() -> None:
    slots = SlotAffinity(1)
    slots.release(slots.take(ONE)[0], used=True)
    slots.release(slots.take(OTHER)[0], used=False)
    assert slots.take(OTHER) == (0, True), "what the first one asked is still in it"


def test_trails_say_how_far_prompts_of_one_caller_are_alike() -> None:
    assert (
        compute_prefix_hashes("one", "Hi")
        == compute_prefix_hashes("one", "Ho")
        != compute_prefix_hashes("other", "Hi")
    )
    longer = compute_prefix_hashes("one", LONG + "and more" * 99)
    assert ONE[: len(ONE)] == longer[: len(ONE)] and len(longer) > len(ONE)
    assert not set(ONE) & set(OTHER)
    assert (
        compute_prefix_hashes("one", list(range(99)))[:3]
        == compute_prefix_hashes("one", list(range(200)))[:3]
    )


@in_loop
async def test_nobody_is_beside_several_choices_and_all_is_foreign_after_them() -> None:
    limits = EngineLimits(slots=4, pool_tokens=4000, context=400)
    places = AdmissionQueue(limits, "llama_cpp", isolates_by_slot=True)
    mine = Ticket(10, 10, prefix_hashes=ONE)
    assert places.try_acquire(mine) and (mine.slot, mine.foreign) == (0, True)
    several = Ticket(10, 10, 2, prefix_hashes=ONE)
    assert not places.try_acquire(several)
    places.release(mine, used=20)
    assert places.try_acquire(several) and not several.foreign
    other = Ticket(10, 10, prefix_hashes=OTHER)
    assert not places.try_acquire(other)
    places.release(several, used=20)
    again = Ticket(10, 10, prefix_hashes=ONE)
    assert places.try_acquire(again) and again.foreign
    await turn()
