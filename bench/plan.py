"""How much is measured: all of it, or little of everything."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One number of streams of the tax.

    Args:
        streams: how many requests a round has on each side.
        rounds: how often the throughput of both sides is measured, one right after the other.
        tokens: how many each request generates.
        waits: how often the time to first token is.
        waits_tokens: how many each request generates then.
    """

    streams: int
    rounds: int
    tokens: int
    waits: int
    waits_tokens: int


@dataclass(frozen=True)
class Plan:
    """What one run does. Times are in seconds.

    Args:
        levels: of the tax.
        stagger: between the arrivals of a round's requests.
        relay_rounds: of every relay measurement.
        relay_seconds: that each of them takes.
        bursts: rounds of requests that arrive all at once.
        open_streams: held at once on one worker.
        open_per_second: how fast they are opened.
        open_seconds: how long each one lives.
        step_seconds: how long they live when all advance at the same moments.
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
