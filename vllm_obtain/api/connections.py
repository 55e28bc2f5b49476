"""The client connections of one worker: how many there are, and which of them are idle."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

# Connections kept free below WORKER_CONNECTIONS, so that /health and refusals find a place.
RESERVE = 8


class Connections:
    """Counts a worker's connections. Touched by one thread (or its greenlets) only.

    Args:
        limit: the most the server will hold; above that it accepts no more.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Any] = set()
        self._busy: set[Any] = set()

    @property
    def crowded(self) -> bool:
        """Whether only the reserve is left."""
        return len(self._open) > self._limit - RESERVE

    def opened(self, client: Any) -> None:
        """Note a new connection."""
        self._open.add(client)

    def closed(self, client: Any) -> None:
        """Forget a connection."""
        self._open.discard(client)
        self._busy.discard(client)

    def working(self, client: Any) -> None:
        """Note that a request is worked on."""
        self._busy.add(client)

    def resting(self, client: Any) -> None:
        """Note that the request is answered; the client may send another."""
        self._busy.discard(client)

    def dismiss_idle(self) -> None:
        """End the connections that wait for a next request: a worker that leaves takes none."""
        for client in self._open - self._busy:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RD)
