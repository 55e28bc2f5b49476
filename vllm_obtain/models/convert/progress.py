"""Counts the bytes that a conversion has read, and reports them at intervals."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from vllm_obtain.models.progress import Progress, ProgressCallback, Stage

_INTERVAL: Final = 0.2  # minimum seconds between two lines


class ConversionMeter:
    """Counts bytes and reports the progress at intervals.

    Args:
        total: bytes to read in total.
        report: progress callback.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        total: int,
        report: ProgressCallback,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._done = 0
        self._report = report
        self._clock = clock
        self._reported_at = float("-inf")

    def stage(self, name: Stage) -> None:
        self._stage = name
        self._send()

    def add(self, count: int) -> None:
        """Count bytes and report them if the interval has passed."""
        self._done += count
        if self._clock() - self._reported_at >= _INTERVAL:
            self._send()

    def _send(self) -> None:
        self._reported_at = self._clock()
        self._report(Progress(self._stage, done=self._done, total=self._total))
