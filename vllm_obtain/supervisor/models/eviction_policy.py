"""The eviction policy: which models to unload so that another one fits. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EvictionCandidate:
    """A loaded model, as the eviction policy sees it.

    Args:
        model: name of the model.
        users: running and queued requests of the model.
        last_used: time of the last use in monotonic seconds.
        leaving: whether all its engines are draining.
        pinned: whether it must not be evicted.
        bytes: bytes that are reserved for it.
    """

    model: str
    users: int
    last_used: float
    leaving: bool = False
    pinned: bool = False
    bytes: int = 0


def all_pinned(candidates: Sequence[EvictionCandidate], max_models: int) -> list[str]:
    """Return the names of the pinned models if they reach `max_models`, else an empty list."""
    pinned = [each.model for each in candidates if each.pinned and not each.leaving]
    return pinned if len(pinned) >= max_models else []


def victims(
    candidates: Sequence[EvictionCandidate], max_models: int, needed: int = 0, limit: int = 0
) -> list[str]:
    """Choose the models to evict so that one more fits.

    Idle models come first, the least recently used one first. Then come models in use, in the same
    order. They are drained: they finish their requests and admit no new ones, so that the new model
    does not starve.

    Args:
        candidates: the loaded models, without the new one.
        max_models: how many models may be loaded at the same time.
        needed: bytes that the new model needs.
        limit: bytes that all models may use together.

    Returns:
        Names of models in order of eviction; empty if the new one fits, or all are pinned.
    """
    staying = [candidate for candidate in candidates if not candidate.leaving]
    leaving = len(candidates) - len(staying)
    excess = len(candidates) - leaving + 1 - max_models
    movable = [candidate for candidate in staying if not candidate.pinned]
    order = sorted(movable, key=lambda candidate: (candidate.users > 0, candidate.last_used))
    missing = sum(candidate.bytes for candidate in staying) + needed - limit if needed else 0
    chosen: list[str] = []
    for candidate in order:
        if len(chosen) >= excess and missing <= 0:
            break
        chosen.append(candidate.model)
        missing -= candidate.bytes
    return chosen


def fits(
    candidates: Sequence[EvictionCandidate], max_models: int, needed: int = 0, limit: int = 0
) -> bool:
    """Whether the new model fits beside the loaded ones."""
    taken = sum(candidate.bytes for candidate in candidates)
    return len(candidates) < max_models and (not needed or taken + needed <= limit)
