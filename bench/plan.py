"""Amount of work of a run: full or quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One number of concurrent streams of the overhead measurement.

    Args:
        streams: requests per round and side.
        rounds: rounds of the throughput measurement; both sides run in each round.
        tokens: completion tokens per request of these rounds.
        ttft_rounds: rounds of the TTFT measurement.
        ttft_tokens: completion tokens per request of these rounds.
    """

    streams: int
    rounds: int
    tokens: int
    ttft_rounds: int
    ttft_tokens: int


@dataclass(frozen=True)
class Plan:
    """Amount of work of a run. Times are in seconds.

    Args:
        levels: of the overhead measurement.
        stagger: between the arrivals of a round's requests.
        relay_rounds: rounds of every relay measurement.
        relay_seconds: duration of each of them.
        bursts: rounds of simultaneous requests.
        open_streams: concurrent streams on one worker.
        open_per_second: new streams per second.
        open_seconds: duration of each stream.
        step_seconds: duration of each stream if all advance at the same moments.
    """

    levels: tuple[Level, ...]
    stagger: float = 0.02
    relay_rounds: int = 3
    relay_seconds: float = 3.0
    bursts: int = 10
    open_streams: int = 1000
    open_per_second: float = 250.0
    open_seconds: float = 25.0
    step_seconds: float = 12.0


FULL = Plan((Level(1, 90, 96, 20, 32), Level(16, 24, 96, 10, 32), Level(64, 24, 32, 8, 16)))
QUICK = Plan(
    (Level(1, 3, 32, 3, 8), Level(16, 1, 16, 1, 8), Level(64, 1, 8, 1, 4)),
    relay_rounds=1,
    relay_seconds=1.0,
    bursts=2,
    open_per_second=400.0,
    open_seconds=8.0,
    step_seconds=4.0,
)
