"""Which slot a caller's prompt goes to, and whether what is there may be used."""

from __future__ import annotations

from tests.supervisor.helpers import in_loop, turn
from vllm_obtain.messages import Limits
from vllm_obtain.protocol.apart import trail
from vllm_obtain.supervisor.admission import Admission, Ticket
from vllm_obtain.supervisor.slots import Slots

LONG = "You are helpful. " * 40
ONE, OTHER = trail("one", LONG), trail("other", LONG)


class _Pinning:
    """As much of an engine as a place looks at."""

    class adapter:  # noqa: N801 - an attribute of an engine
        name = "llama_cpp"
        pins_slots = True


def test_a_callers_own_prompt_is_found_again_and_nobody_elses() -> None:
    slots = Slots(2)
    assert slots.take(ONE) == (0, True)
    slots.give_back(0, used=True)
    assert slots.take(ONE) == (0, False)
    slots.give_back(0, used=True)
    assert slots.take(OTHER) == (1, True)
    slots.give_back(1, used=True)
    third = trail("third", LONG)
    assert slots.take(third) == (0, True), "the one used longest ago, emptied first"


def test_another_conversation_takes_another_slot_while_there_are_some() -> None:
    slots = Slots(2)
    first, second = trail("one", LONG + "a" * 4000), trail("one", "b" * 4000)
    slots.give_back(slots.take(first)[0], used=True)
    slots.give_back(slots.take(second)[0], used=True)
    assert slots.take(trail("one", LONG + "a" * 9000)) == (0, False), "the first one goes on"
    assert slots.take(trail("one", "c" * 4000)) == (1, False), "its own all the same"


def test_who_never_asked_leaves_the_slot_a_strangers() -> None:
    slots = Slots(1)
    slots.give_back(slots.take(ONE)[0], used=True)
    slots.give_back(slots.take(OTHER)[0], used=False)
    assert slots.take(OTHER) == (0, True), "what the first one asked is still in it"


def test_trails_say_how_far_prompts_of_one_caller_are_alike() -> None:
    assert trail("one", "Hi") == trail("one", "Ho") != trail("other", "Hi")
    longer = trail("one", LONG + "and more" * 99)
    assert ONE[: len(ONE)] == longer[: len(ONE)] and len(longer) > len(ONE)
    assert not set(ONE) & set(OTHER)
    assert trail("one", list(range(99)))[:3] == trail("one", list(range(200)))[:3]


@in_loop
async def test_nobody_is_beside_several_choices_and_all_is_foreign_after_them() -> None:
    places = Admission(Limits(slots=4, pool_tokens=4000, context=400))
    places.engine = _Pinning()  # type: ignore[assignment]
    mine = Ticket(10, 10, trail=ONE)
    assert places.try_enter(mine) and (mine.slot, mine.foreign) == (0, True)
    several = Ticket(10, 10, 2, trail=ONE)
    assert not places.try_enter(several)
    places.leave(mine, used=20)
    assert places.try_enter(several) and not several.foreign
    other = Ticket(10, 10, trail=OTHER)
    assert not places.try_enter(other)
    places.leave(several, used=20)
    again = Ticket(10, 10, trail=ONE)
    assert places.try_enter(again) and again.foreign
    await turn()
