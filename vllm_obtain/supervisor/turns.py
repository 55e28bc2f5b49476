"""Who of those that wait for a place is next: fair between callers, in order for each of them.

Each caller has a counter of the tokens that it was given; the one with the lowest is next. One that
comes back after a while begins with the lowest of those that wait, so that nobody saves up turns.
This is the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models"
(OSDI 2024), section 4, with the same weight for tokens read and tokens made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """Somebody in the line.

    Args:
        caller: whose request it is; empty for nobody's in particular, which is a caller too.
    """

    caller: str


W = TypeVar("W", bound=Waiting)


class Turns(Generic[W]):
    """The line before one engine process."""

    def __init__(self) -> None:
        # In the order in which they came.
        self._line: dict[W, None] = {}
        self._given: dict[str, int] = {}
        self._last = ""

    def __len__(self) -> int:
        return len(self._line)

    def __iter__(self) -> Iterator[W]:
        return iter(self._line)

    def __contains__(self, one: W) -> bool:
        return one in self._line

    def add(self, one: W) -> None:
        """Let somebody wait."""
        callers = {each.caller for each in self._line}
        if one.caller not in callers:
            floor = min(map(self._of, callers), default=self._of(self._last))
            self._given[one.caller] = max(self._of(one.caller), floor)
        self._line[one] = None

    def remove(self, one: W) -> None:
        """Let somebody go who waits."""
        del self._line[one]

    def first(self) -> W:
        """Find who is next; there has to be somebody."""
        return min(self._line, key=lambda each: self._of(each.caller))

    def clear(self) -> list[W]:
        """Let everybody go; returns who that was."""
        left, self._line = list(self._line), {}
        return left

    def gave(self, caller: str, tokens: int) -> None:
        """Count what a caller was given when it got a place, or before that."""
        self._last = caller
        self.correct(caller, tokens)

    def correct(self, caller: str, tokens: int) -> None:
        """Count more for a caller, or with a negative number less, than it was given at first."""
        self._given[caller] = self._of(caller) + tokens

    def _of(self, caller: str) -> int:
        return self._given.get(caller, 0)
