"""The client connections of one worker: how many there are, and which of them are idle."""

from __future__ import annotations

from typing import Any

from vllm_obtain.cooperative import stop_reading

# Connections kept free below WORKER_CONNECTIONS, so that /health and refusals find a place.
RESERVE = 8


class Connections:
    """Counts a worker's connections. Touched by one thread (or its greenlets) only.

    Args:
        limit: the most the server will hold; above that it accepts no more.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # From here on each new one takes the place of one that asks for nothing.
        self._full = limit - RESERVE - min(RESERVE, limit // 8)
        self._open: set[Any] = set()
        # Those that wait for a request, the one that has waited longest first.
        self._idle: dict[Any, None] = {}
        # Those that were told to go and are not gone yet, which takes a moment.
        self._leaving: set[Any] = set()

    @property
    def crowded(self) -> bool:
        """Whether only the reserve is left."""
        return self._staying > self._limit - RESERVE

    @property
    def _staying(self) -> int:
        return len(self._open) - len(self._leaving)

    def opened(self, client: Any) -> None:
        """Note a new connection; it makes room for itself when there is little left."""
        while self._idle and self._staying >= self._full:
            longest = next(iter(self._idle))
            del self._idle[longest]
            self._leaving.add(longest)
            stop_reading(longest)
        self._open.add(client)
        self._idle[client] = None

    def closed(self, client: Any) -> None:
        """Forget a connection."""
        self._open.discard(client)
        self._leaving.discard(client)
        self._idle.pop(client, None)

    def working(self, client: Any) -> None:
        """Note that a request is worked on."""
        self._leaving.discard(client)
        self._idle.pop(client, None)

    def resting(self, client: Any) -> None:
        """Note that the request is answered; the client may send another."""
        if client in self._open:
            self._idle[client] = None

    def dismiss_idle(self) -> None:
        """End the connections that wait for a next request: a worker that leaves takes none."""
        for client in list(self._idle):
            stop_reading(client)
