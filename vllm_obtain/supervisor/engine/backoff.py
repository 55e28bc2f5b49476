"""Exponential backoff before the restart of a crashed engine."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW = 300.0
LONGEST = 30.0
# Seconds after which an external kill of a ready engine does not count as a crash. An engine that
# is killed right after its start may use too much memory.
SETTLED = 2.0


class Backoff:
    """The recent crashes of one engine.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._crashes: deque[float] = deque(maxlen=16)

    def record_crash(self) -> None:
        self._crashes.append(self._clock())

    def reset(self) -> None:
        """Forget all crashes."""
        self._crashes.clear()

    @property
    def recent(self) -> int:
        """Number of crashes within the last WINDOW seconds."""
        now = self._clock()
        return sum(now - time_ < WINDOW for time_ in self._crashes)

    @property
    def remaining(self) -> float:
        """Seconds until the next start: 0 after one crash, then 1, 2, 4, … up to LONGEST."""
        recent = self.recent
        if recent <= 1:
            return 0.0
        pause = min(LONGEST, 2.0 ** (recent - 2))
        return max(0.0, self._crashes[-1] + pause - self._clock())
