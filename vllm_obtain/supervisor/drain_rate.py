"""How fast requests end, and so when a place is likely free. Pure, but for the clock."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

WINDOW = 60.0
# What is said while nothing is known.
UNKNOWN = 5.0
# The official SDKs give up on a Retry-After above this many seconds.
LONGEST = 120.0


class DrainRate:
    """The ends of the last requests.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: deque[float] = deque(maxlen=256)

    def ended(self) -> None:
        """Note the end of a request."""
        self._ended.append(self._clock())

    @property
    def seconds_per_request(self) -> float:
        """Seconds until a place is likely free, from the last minute; 1 to LONGEST."""
        now = self._clock()
        recent = [moment for moment in self._ended if now - moment < WINDOW]
        if len(recent) < 2:
            return UNKNOWN
        return min(LONGEST, math.ceil(max(1.0, (now - recent[0]) / len(recent))))
