from __future__ import annotations

import pytest

from vllm_obtain.supervisor.models.eviction_policy import EvictionCandidate, fits, victims

IDLE_OLD, IDLE_NEW = EvictionCandidate("idle-old", 0, 1), EvictionCandidate("idle-new", 0, 9)
BUSY_OLD, BUSY_NEW = EvictionCandidate("busy-old", 2, 0), EvictionCandidate("busy-new", 1, 8)
PINNED = EvictionCandidate("pinned", 0, 0, pinned=True)
LEAVING = EvictionCandidate("leaving", 3, 0, leaving=True)


@pytest.mark.parametrize(
    ("occupants", "places", "expected"),
    [
        ([], 1, []),
        ([IDLE_NEW], 2, []),
        ([IDLE_NEW], 1, ["idle-new"]),
        ([IDLE_NEW, IDLE_OLD], 2, ["idle-old"]),
        ([IDLE_NEW, BUSY_OLD], 2, ["idle-new"]),
        ([BUSY_NEW, BUSY_OLD], 2, ["busy-old"]),
        ([BUSY_NEW, IDLE_NEW, IDLE_OLD], 1, ["idle-old", "idle-new", "busy-new"]),
        ([LEAVING, IDLE_NEW], 2, []),
        ([LEAVING, IDLE_NEW], 1, ["idle-new"]),
        ([LEAVING], 1, []),
        ([PINNED, BUSY_NEW], 2, ["busy-new"]),
        ([PINNED, IDLE_NEW], 1, ["idle-new"]),
        ([PINNED], 1, []),
    ],
)
def test_victims(occupants: list[EvictionCandidate], places: int, expected: list[str]) -> None:
    assert victims(occupants, places) == expected


@pytest.mark.parametrize(
    ("sizes", "needed", "expected"),
    [
        ([30, 30], 40, []),
        ([30, 30], 41, ["m0"]),
        ([30, 60], 70, ["m0", "m1"]),
        ([5, 90], 10, ["m0"]),
        ([5, 90], 20, ["m0", "m1"]),
    ],
)
def test_victims_by_bytes(sizes: list[int], needed: int, expected: list[str]) -> None:
    them = [
        EvictionCandidate(f"m{number}", 0, number, bytes=size) for number, size in enumerate(sizes)
    ]
    assert victims(them, 9, needed, 100) == expected
    left = [each for each in them if each.model not in expected]
    assert fits(left, 9, needed, 100)
    assert fits(them, 9, needed, 100) is (not expected)
