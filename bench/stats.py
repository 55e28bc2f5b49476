"""Medians and percentiles, and a number with its interval."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

from vllm_obtain.measuring.figures import percentile

__all__ = ["median_interval", "milliseconds", "percentile", "summary"]

_RESAMPLES = 2000


def summary(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Sum up a sample: count, median, 95th and 99th percentile, largest."""
    return {
        "n": len(values),
        "p50": round(percentile(values, 0.50), digits),
        "p95": round(percentile(values, 0.95), digits),
        "p99": round(percentile(values, 0.99), digits),
        "max": round(max(values), digits),
    }


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Sum up durations, in milliseconds."""
    return summary([1000 * value for value in seconds])


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of such values lies with 95% probability (bootstrap, fixed seed)."""
    draw = random.Random(1)  # noqa: S311 - statistics, not secrets
    medians = sorted(
        statistics.median(draw.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    return medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES) - 1]
