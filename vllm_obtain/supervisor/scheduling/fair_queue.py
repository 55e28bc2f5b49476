"""A fair queue: FIFO for each caller, and the least-served caller first.

Each caller has a counter of the tokens it was granted. The queued caller with the lowest counter is
next. The counter of a returning caller is raised to the minimum of the queued callers, so that an
idle caller does not accumulate credit. This is the virtual token counter of Sheng et al., "Fairness
in Serving Large Language Models" (OSDI 2024), section 4, with equal weights for prompt and
completion tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    """A queued request.

    Args:
        caller: id of the caller. The empty id counts as a caller too.
    """

    caller: str


W = TypeVar("W", bound=Queued)


class FairQueue(Generic[W]):
    """The queue of one engine process."""

    def __init__(self) -> None:
        # A dict as an ordered set, in order of arrival.
        self._requests: dict[W, None] = {}
        self._counters: dict[str, int] = {}
        self._last_caller = ""

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[W]:
        return iter(self._requests)

    def __contains__(self, request: W) -> bool:
        return request in self._requests

    def add(self, request: W) -> None:
        callers = {queued.caller for queued in self._requests}
        if request.caller not in callers:
            floor = min(map(self._counter, callers), default=self._counter(self._last_caller))
            self._counters[request.caller] = max(self._counter(request.caller), floor)
        self._requests[request] = None

    def remove(self, request: W) -> None:
        del self._requests[request]

    def peek(self) -> W:
        """Return the next request. The queue must not be empty."""
        return min(self._requests, key=lambda request: self._counter(request.caller))

    def clear(self) -> list[W]:
        """Empty the queue, and return its requests."""
        requests, self._requests = list(self._requests), {}
        return requests

    def charge(self, caller: str, tokens: int) -> None:
        """Add the tokens of an admitted request to its caller's counter."""
        self._last_caller = caller
        self.adjust(caller, tokens)

    def adjust(self, caller: str, tokens: int) -> None:
        """Correct a caller's counter by a number of tokens, which may be negative."""
        self._counters[caller] = self._counter(caller) + tokens

    def _counter(self, caller: str) -> int:
        return self._counters.get(caller, 0)
