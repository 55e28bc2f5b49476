"""How long an engine that crashes is left alone, and when a client that was refused comes back."""

from __future__ import annotations

import pytest

from vllm_obtain.supervisor.engine.backoff import Backoff
from vllm_obtain.supervisor.scheduling.drain_rate import DrainRate


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_pause_grows_with_each_crash_and_ends() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    pauses = [backoff.remaining]
    for _ in range(9):
        backoff.record_crash()
        pauses.append(backoff.remaining)
    assert pauses == [0, 0, 1, 2, 4, 8, 16, 30, 30, 30]
    clock.now += 29
    assert backoff.remaining == 1
    clock.now += 100
    assert backoff.remaining == 0


def test_old_crashes_do_not_count() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(5):
        backoff.record_crash()
    clock.now += 301
    backoff.record_crash()
    assert backoff.remaining == 0
    backoff.record_crash()
    assert backoff.remaining == 1
    backoff.reset()
    assert backoff.remaining == 0


@pytest.mark.parametrize(
    ("ends", "requests", "seconds"),
    [
        ([], 1, 5),
        ([], 100, 5),
        ([-1], 1, 5),
        ([-100, -90], 1, 5),  # too long ago
        ([-10, -5], 1, 5),
        ([-10, -5], 3, 15),
        ([-59, -1], 1, 30),
        ([-59, -1], 100, 120),
        ([-0.2, -0.1], 1, 1),
        ([-1.0] * 300, 1, 1),
        ([-1.0] * 256, 1000, 4),
    ],
)
def test_seconds_until_requests_have_ended(
    ends: list[float], requests: int, seconds: float
) -> None:
    clock = Clock()
    rate = DrainRate(clock)
    for end in ends:
        clock.now = 1000 + end
        rate.ended()
    clock.now = 1000
    assert rate.seconds(requests) == seconds
