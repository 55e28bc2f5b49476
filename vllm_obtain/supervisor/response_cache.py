"""The response cache of all workers, with coalescing of identical requests in flight."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

# Limits in bytes, in addition to CACHE_SIZE: many long responses must not fill the memory.
MAX_BYTES = 64 * 1024 * 1024
MAX_RESPONSE_BYTES = 1024 * 1024


class ResponseCache:
    """An LRU cache. One request per missing key is the leader and generates; the others wait.

    Args:
        entries: maximum number of responses.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._responses: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._followers: dict[bytes, deque[asyncio.Future[bytes | None]]] = {}

    @property
    def size(self) -> dict[str, int]:
        """Number of entries and their bytes."""
        return {"entries": len(self._responses), "bytes": self._bytes}

    def try_lookup(self, key: bytes) -> tuple[bool, bytes | None]:
        """Look up a response without waiting.

        Returns:
            (True, response) on a hit; (True, None) if the caller is the leader now and must call
            `store` or `abandon`; (False, None) if another request leads, so the caller should
            `wait_for_leader`.
        """
        if (response := self._responses.get(key)) is not None:
            self._responses.move_to_end(key)
            return True, response
        if key in self._followers:
            return False, None
        self._followers[key] = deque()
        return True, None

    async def wait_for_leader(self, key: bytes) -> bytes | None:
        """Wait for the leader's response; None means that the caller is the leader now."""
        waiting = self._followers.get(key)
        if waiting is None:
            return self.try_lookup(key)[1]
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result() is None:
                self.abandon(key)
            raise

    def store(self, key: bytes, response: bytes) -> None:
        """Store a response and hand it to the waiting requests."""
        for future in self._followers.pop(key, ()):
            if not future.done():
                future.set_result(response)
        if len(response) > MAX_RESPONSE_BYTES:
            return
        self._bytes += len(response) - len(self._responses.pop(key, b""))
        self._responses[key] = response
        while len(self._responses) > self._entries or self._bytes > MAX_BYTES:
            _, dropped = self._responses.popitem(last=False)
            self._bytes -= len(dropped)

    def abandon(self, key: bytes) -> None:
        """Make the next waiting request the leader, since the leader failed or disconnected."""
        waiting = self._followers.get(key)
        while waiting:
            future = waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._followers.pop(key, None)
