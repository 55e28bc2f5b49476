"""Memory for the request bodies of one worker, shared fairly between callers."""

from __future__ import annotations

from collections import Counter


class BodyMemory:
    """Counts the bytes of request bodies in flight.

    A caller may hold at most as many bytes as are free, so one alone gets half of the limit and
    always leaves memory for another one. These are the dynamic thresholds of Choudhury and Hahne,
    "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches" (1998), with alpha = 1.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._held_by: Counter[str] = Counter()

    def acquire(self, caller: str, size: int) -> bool:
        """Count more bytes of a caller.

        Args:
            caller: identifies the caller.
            size: bytes.

        Returns:
            Whether the caller may hold them; they are counted only then.
        """
        if self._held_by[caller] + size > self.limit - self.held - size:
            return False
        self._held_by[caller] += size
        self.held += size
        return True

    def release(self, caller: str, size: int) -> None:
        """Give bytes of a caller back."""
        self._held_by[caller] -= size
        self.held -= size
        if not self._held_by[caller]:
            del self._held_by[caller]
