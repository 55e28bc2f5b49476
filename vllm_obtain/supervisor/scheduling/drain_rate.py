"""The rate at which requests end, for Retry-After."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

WINDOW = 60.0
# Seconds to report while fewer than two requests have ended.
UNKNOWN = 5.0
# Seconds. OpenAI's SDKs ignore a longer Retry-After.
LONGEST = 120.0


class DrainRate:
    """The times at which the last requests ended.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: deque[float] = deque(maxlen=256)

    def ended(self) -> None:
        """Record the end of a request."""
        self._ended.append(self._clock())

    def seconds(self, requests: int) -> float:
        """Estimate the whole seconds, from 1 to LONGEST, in which a number of requests end.

        Requests end at the rate of the last minute.
        """
        now = self._clock()
        recent = [moment for moment in self._ended if now - moment < WINDOW]
        if len(recent) < 2:
            return UNKNOWN
        seconds = requests * (now - recent[0]) / len(recent)
        return min(LONGEST, math.ceil(max(1.0, seconds)))
