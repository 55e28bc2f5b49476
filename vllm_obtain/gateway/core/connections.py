"""Counts the client connections of one worker, and tracks idle ones."""

from __future__ import annotations

from typing import Any

from vllm_obtain.gevent_compat import stop_reading

# Connections below WORKER_CONNECTIONS that are reserved for probes and error responses.
RESERVE = 8


class Connections:
    """Tracks the connections of a worker. Not thread-safe; used by the greenlets of one thread.

    Args:
        limit: maximum connections; the worker accepts no more above it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # From this number on, each new connection closes the longest idle one.
        self._full = limit - RESERVE - min(RESERVE, limit // 8)
        self._open: set[Any] = set()
        # Keep-alive connections without a request, the longest idle one first.
        self._idle: dict[Any, None] = {}
        # Connections that are being closed, which takes a moment.
        self._leaving: set[Any] = set()

    @property
    def crowded(self) -> bool:
        """Whether only reserved connections are available."""
        return self._count > self._limit - RESERVE

    @property
    def _count(self) -> int:
        return len(self._open) - len(self._leaving)

    def opened(self, client: Any) -> None:
        """Add a connection. Close the longest idle ones if the limit is near."""
        while self._idle and self._count >= self._full:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            self._leaving.add(oldest)
            stop_reading(oldest)
        self._open.add(client)
        self._idle[client] = None

    def closed(self, client: Any) -> None:
        """Remove a connection."""
        self._open.discard(client)
        self._leaving.discard(client)
        self._idle.pop(client, None)

    def working(self, client: Any) -> None:
        """Mark a connection as busy with a request."""
        self._leaving.discard(client)
        self._idle.pop(client, None)

    def resting(self, client: Any) -> None:
        """Mark a connection as idle after a response."""
        if client in self._open:
            self._idle[client] = None

    def dismiss_idle(self) -> None:
        """Close idle connections, because a stopping worker accepts no further requests."""
        for client in list(self._idle):
            stop_reading(client)
