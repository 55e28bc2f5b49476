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
        bytes: what is reserved for it.
    """

    model: str
    users: int
    last_used: float
    leaving: bool = False
    pinned: bool = False
    bytes: int = 0


def held_for_good(occupants: Sequence[Occupant], places: int) -> list[str]:
    """Name the pinned models that hold all places, so that none will be free; else nobody."""
    pinned = [each.model for each in occupants if each.pinned and not each.leaving]
    return pinned if len(pinned) >= places else []


def victims(
    occupants: Sequence[Occupant], places: int, needed: int = 0, limit: int = 0
) -> list[str]:
    """Choose who has to leave so that one more model fits.

    The least recently used of the idle ones goes first. When all are in use, the least recently
    used one is chosen too: it takes no new requests and leaves when its users are done, so it is
    never cut off and the newcomer does not starve.

    Args:
        occupants: the models that hold places, without the newcomer.
        places: how many models may be loaded at once.
        needed: bytes that the newcomer will take.
        limit: bytes that all may take together.

    Returns:
        Names, those to stop first in front; empty when there is room, or when all are pinned.
    """
    staying = [occupant for occupant in occupants if not occupant.leaving]
    leaving = len(occupants) - len(staying)
    excess = len(occupants) - leaving + 1 - places
    movable = [occupant for occupant in staying if not occupant.pinned]
    order = sorted(movable, key=lambda occupant: (occupant.users > 0, occupant.last_used))
    missing = sum(occupant.bytes for occupant in staying) + needed - limit if needed else 0
    chosen: list[str] = []
    for occupant in order:
        if len(chosen) >= excess and missing <= 0:
            break
        chosen.append(occupant.model)
        missing -= occupant.bytes
    return chosen


def fits(occupants: Sequence[Occupant], places: int, needed: int = 0, limit: int = 0) -> bool:
    """Whether a newcomer finds a place and memory beside those who are still there."""
    taken = sum(occupant.bytes for occupant in occupants)
    return len(occupants) < places and (not needed or taken + needed <= limit)
