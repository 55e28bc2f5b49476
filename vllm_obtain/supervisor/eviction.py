"""Which model has to go when another one needs its place. Pure; the pool carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Occupant:
    """A model that holds a place.

    Args:
        model: its name.
        users: requests that hold or await a lease on it.
        last_used: monotonic seconds.
        leaving: whether it is on its way out already.
        pinned: whether its owner wants it never to make room.
    """

    model: str
    users: int
    last_used: float
    leaving: bool = False
    pinned: bool = False


def held_for_good(occupants: Sequence[Occupant], places: int) -> list[str]:
    """Name the pinned models that hold all places, so that none will be free; else nobody."""
    pinned = [each.model for each in occupants if each.pinned and not each.leaving]
    return pinned if len(pinned) >= places else []


def victims(occupants: Sequence[Occupant], places: int) -> list[str]:
    """Choose who has to leave so that one more model fits.

    The least recently used of the idle ones goes first. When all are in use, the least recently
    used one is chosen too: it takes no new requests and leaves when its users are done, so it is
    never cut off and the newcomer does not starve.

    Args:
        occupants: the models that hold places, without the newcomer.
        places: how many models may be loaded at once.

    Returns:
        Names, those to stop first in front; empty when there is room, or when all are pinned.
    """
    staying = [occupant for occupant in occupants if not occupant.leaving]
    leaving = len(occupants) - len(staying)
    excess = len(occupants) - leaving + 1 - places
    movable = [occupant for occupant in staying if not occupant.pinned]
    order = sorted(movable, key=lambda occupant: (occupant.users > 0, occupant.last_used))
    return [occupant.model for occupant in order[: max(0, excess)]]
