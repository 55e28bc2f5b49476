"""Which of llama.cpp's slots a request uses, where keys must not find each other's prompts.

A slot keeps the tokens of what it answered last, and a prompt that begins like them is not read
again: to whoever looks at the times or at `cached_tokens`, that says what others asked. The engine
knows no callers, so it is told which slot to take, and whether what is there may be used.
"""

from __future__ import annotations

from collections.abc import Sequence

Trail = Sequence[bytes]


class Slots:
    """The slots of one process.

    Args:
        count: how many it has.
    """

    def __init__(self, count: int) -> None:
        self._trails: list[Trail] = [()] * count
        self._free = list(range(count))  # the one that was used longest ago first

    def take(self, trail: Trail) -> tuple[int, bool]:
        """Choose a free slot.

        Args:
            trail: marks of the caller and of the beginnings of its prompt (`protocol/apart.py`).

        Returns:
            Its number, and whether it must be emptied first: it has another caller's prompt.
        """
        chosen, most = self._free[0], 0
        for slot in self._free:
            known = self._trails[slot]
            common = _common(known, trail)
            # Less than half of the shorter one: another conversation, which may come back.
            if common >= max(1, most, min(len(known), len(trail)) - 1):
                chosen, most = slot, common
        self._free.remove(chosen)
        foreign = not _common(self._trails[chosen], trail)
        self._trails[chosen] = trail
        return chosen, foreign

    def give_back(self, slot: int, used: bool) -> None:
        """Have others use a slot.

        Args:
            slot: its number.
            used: whether the engine has read of the prompt; if not, who knows whose is in it.
        """
        self._free.append(slot)
        if not used:
            self._trails[slot] = ()

    def forget(self) -> None:
        """Take every slot for a stranger's from now on."""
        self._trails = [()] * len(self._trails)


def _common(one: Trail, other: Trail) -> int:
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count
