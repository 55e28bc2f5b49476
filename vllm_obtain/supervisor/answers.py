"""Answers to deterministic requests, kept over all workers, and who is finding one out."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

# Beside CACHE_SIZE: a thousand long answers must not become a gigabyte.
MAX_BYTES = 64 * 1024 * 1024
MAX_ANSWER = 1024 * 1024


class Answers:
    """A least-recently-used cache in which one asker per key leads and the others wait.

    Args:
        entries: how many answers are kept.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._led: dict[bytes, deque[asyncio.Future[bytes | None]]] = {}

    @property
    def size(self) -> dict[str, int]:
        """How much is kept."""
        return {"entries": len(self._kept), "bytes": self._bytes}

    def try_recall(self, key: bytes) -> tuple[bool, bytes | None]:
        """Look an answer up without waiting.

        Returns:
            (True, answer) when it is known; (True, None) when the caller leads now and must call
            `remember` or `abandon`; (False, None) when somebody else leads: `follow` waits.
        """
        if (answer := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return True, answer
        if key in self._led:
            return False, None
        self._led[key] = deque()
        return True, None

    async def follow(self, key: bytes) -> bytes | None:
        """Wait for the leader's answer; None means that the caller leads from now on."""
        waiting = self._led.get(key)
        if waiting is None:
            return self.try_recall(key)[1]
        turn: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is None:
                self.abandon(key)
            raise

    def remember(self, key: bytes, answer: bytes) -> None:
        """Keep an answer and hand it to those who wait."""
        for turn in self._led.pop(key, ()):
            if not turn.done():
                turn.set_result(answer)
        if len(answer) > MAX_ANSWER:
            return
        self._bytes += len(answer) - len(self._kept.pop(key, b""))
        self._kept[key] = answer
        while len(self._kept) > self._entries or self._bytes > MAX_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped)

    def abandon(self, key: bytes) -> None:
        """Let the next one who waits lead: the leader failed or is gone."""
        waiting = self._led.get(key)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._led.pop(key, None)
