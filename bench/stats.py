"""Percentiles, and the confidence interval of a median."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

from vllm_obtain.benchmark.stats import percentile

__all__ = ["median_interval", "milliseconds", "percentile", "summary"]

_RESAMPLES = 2000


def summary(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Summarize values: count, median, 95th and 99th percentile, maximum."""
    return {
        "n": len(values),
        "p50": round(percentile(values, 0.50), digits),
        "p95": round(percentile(values, 0.95), digits),
        "p99": round(percentile(values, 0.99), digits),
        "max": round(max(values), digits),
    }


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Summarize durations in milliseconds."""
    return summary([1000 * value for value in seconds])


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median (bootstrap with a fixed seed)."""
    rng = random.Random(1)  # noqa: S311 - statistics, not secrets
    medians = sorted(
        statistics.median(rng.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    return medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES) - 1]
