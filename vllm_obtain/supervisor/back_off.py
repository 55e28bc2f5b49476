"""How long to wait before an engine that crashed is started again. Pure, but for the clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW = 300.0
LONGEST = 30.0
# An engine that has served for so long, in seconds, and is then killed from outside has no fault
# that a pause would mend; one that is killed as soon as it serves may take more than there is.
SETTLED = 2.0


class BackOff:
    """The crashes of one engine.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._crashes: deque[float] = deque(maxlen=16)

    def crashed(self) -> None:
        """Note a crash."""
        self._crashes.append(self._clock())

    def forget(self) -> None:
        """Begin anew."""
        self._crashes.clear()

    @property
    def recent(self) -> int:
        """Crashes within the last WINDOW seconds."""
        now = self._clock()
        return sum(now - moment < WINDOW for moment in self._crashes)

    @property
    def left(self) -> float:
        """Seconds until the next start is due: none after one crash, then 1, 2, 4, …"""
        recent = self.recent
        if recent <= 1:
            return 0.0
        pause = min(LONGEST, 2.0 ** (recent - 2))
        return max(0.0, self._crashes[-1] + pause - self._clock())
