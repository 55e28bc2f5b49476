"""Step counters that engines export at /metrics. The watchdog uses them to detect a stall."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class StepReading:
    """One reading of an engine's step counter.

    Args:
        steps: a counter that grows with every step of the model, during prefill too.
        busy: whether requests are running or waiting.
    """

    steps: float
    busy: bool


def from_prometheus(response: bytes, steps: str, work: Iterable[str]) -> StepReading | None:
    """Parse Prometheus' text format.

    Args:
        response: the text.
        steps: name of the step counter.
        work: names of the gauges of running and waiting requests.

    Returns:
        The reading, or None if the counter is missing.
    """
    sums: dict[str, float] = {}
    for line in response.decode(errors="replace").splitlines():
        name, _, value = line.rpartition(" ")
        name = name.partition("{")[0]
        if name and not name.startswith("#"):
            try:
                sums[name] = sums.get(name, 0.0) + float(value)
            except ValueError:
                continue
    if steps not in sums:
        return None
    return StepReading(sums[steps], any(sums.get(name, 0) > 0 for name in work))


def from_json(response: bytes) -> StepReading | None:
    """Parse the response of our MLX server; None if it has no step counter."""
    try:
        metrics = json.loads(response)
        # The embedding server processes one batch at a time and does not report running requests.
        busy = "running" not in metrics or metrics["running"] + metrics["waiting"] > 0
        return StepReading(float(metrics["steps"]), busy)
    except (ValueError, TypeError, KeyError):
        return None
