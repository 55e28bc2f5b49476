"""Signs of life that an engine gives at /metrics: how many steps it made, whether it has work."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Vitals:
    """One look at an engine.

    Args:
        steps: a number that grows with each step of the model, in a prompt too.
        busy: whether it has requests, running or waiting.
    """

    steps: float
    busy: bool


def from_prometheus(answer: bytes, steps: str, work: Iterable[str]) -> Vitals | None:
    """Read Prometheus' text.

    Args:
        answer: the text.
        steps: the name of the counter of steps.
        work: the names of the gauges of running and waiting requests.

    Returns:
        None when the counter is not there.
    """
    sums: dict[str, float] = {}
    for line in answer.decode(errors="replace").splitlines():
        name, _, value = line.rpartition(" ")
        name = name.partition("{")[0]
        if name and not name.startswith("#"):
            try:
                sums[name] = sums.get(name, 0.0) + float(value)
            except ValueError:
                continue
    if steps not in sums:
        return None
    return Vitals(sums[steps], any(sums.get(name, 0) > 0 for name in work))


def from_json(answer: bytes) -> Vitals | None:
    """Read what our MLX server says; None when it says nothing of steps."""
    try:
        said = json.loads(answer)
        # Vectors are made one batch at a time, and what is worked on is not told.
        busy = "running" not in said or said["running"] + said["waiting"] > 0
        return Vitals(float(said["steps"]), busy)
    except (ValueError, TypeError, KeyError):
        return None
