"""Assignment of requests to llama.cpp's slots, where callers must not share prompt caches.

A slot caches the tokens of its last request, and reuses them for a prompt with the same prefix.
Timing and `cached_tokens` would reveal prompts of other callers. The engine does not know callers,
so the supervisor selects the slot, and whether to clear it first.
"""

from __future__ import annotations

from collections.abc import Sequence

Trail = Sequence[bytes]


class SlotAffinity:
    """The slots of one engine process.

    Args:
        count: number of slots.
    """

    def __init__(self, count: int) -> None:
        self._trails: list[Trail] = [()] * count
        self._free = list(range(count))  # the least recently used slot first

    def take(self, trail: Trail) -> tuple[int, bool]:
        """Choose a free slot.

        Args:
            trail: hashes of the caller and of the prefixes of its prompt
                (`protocol/cache_isolation.py`).

        Returns:
            Its number, and whether it must be cleared first, since it has another caller's prompt.
        """
        chosen, longest = self._free[0], 0
        for slot in self._free:
            cached = self._trails[slot]
            common = _common(cached, trail)
            # Skip a slot with another conversation of the caller, which may continue later.
            if common >= max(1, longest, min(len(cached), len(trail)) - 1):
                chosen, longest = slot, common
        self._free.remove(chosen)
        foreign = not _common(self._trails[chosen], trail)
        self._trails[chosen] = trail
        return chosen, foreign

    def release(self, slot: int, used: bool) -> None:
        """Free a slot.

        Args:
            slot: number of the slot.
            used: whether the engine has processed the prompt. If not, the content is unknown.
        """
        self._free.append(slot)
        if not used:
            self._trails[slot] = ()

    def forget(self) -> None:
        """Treat the content of every slot as that of another caller."""
        self._trails = [()] * len(self._trails)


def _common(first: Trail, second: Trail) -> int:
    count = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        count += 1
    return count
