"""Responses that later requests can go on from, kept over all workers."""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.messages import Fetch, Fetched, Forget, Keep
from vllm_obtain.supervisor.wire import MAX_FRAME

# Beside RESPONSES_STORE_MB: a great many small ones would make Python's own share the larger one.
MAX_RESPONSES = 20_000
# A conversation is sent as one frame.
MAX_CONVERSATION = MAX_FRAME - 1024 * 1024
# What a response takes beside its body, about.
_OVERHEAD = 512

Key = tuple[bytes, str]


class _Entry(Struct):
    """A response that is kept."""

    body: bytes
    previous: str | None
    items: list[str]

    @property
    def size(self) -> int:
        return len(self.body) + sum(map(len, self.items)) + _OVERHEAD


class KeptResponses:
    """A least-recently-used store. Using a response is using all that it went on from.

    Args:
        max_bytes: what all of them may take; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Key, _Entry] = OrderedDict()
        self._holders: dict[Key, str] = {}  # the response that an item belongs to
        self._bytes = 0

    @property
    def size(self) -> dict[str, int]:
        """How much is kept."""
        return {"entries": len(self._kept), "bytes": self._bytes}

    def keep(self, asked: Keep) -> bool:
        """Keep a response; older ones make room.

        Returns:
            False when it is larger than all the room there is, or the room of a conversation.
        """
        entry = _Entry(asked.body, asked.previous, asked.items)
        if entry.size > min(self._max_bytes, MAX_CONVERSATION):
            return False
        self._drop((asked.owner, asked.id))
        # It counts as a use of those before it, so a conversation does not lose its beginning
        # while it goes on.
        for key, _ in self._chain(asked.owner, asked.previous)[0]:
            self._kept.move_to_end(key)
        self._kept[asked.owner, asked.id] = entry
        self._bytes += entry.size
        for item in asked.items:
            self._holders[asked.owner, item] = asked.id
        while self._bytes > self._max_bytes or len(self._kept) > MAX_RESPONSES:
            self._drop(next(iter(self._kept)))
        return (asked.owner, asked.id) in self._kept

    def fetch(self, asked: Fetch) -> Fetched:
        """Find a response, with those that it went on from if they are wanted.

        Raises:
            InvalidRequest: together they are too much to be sent.
        """
        name = asked.id
        if asked.item:
            name = self._holders.get((asked.owner, asked.id), "")
        chain, missing = self._chain(asked.owner, name)
        for key, _ in chain:
            self._kept.move_to_end(key)
        if not asked.whole:
            return Fetched([chain[-1][1].body]) if chain else Fetched([], asked.id)
        if missing is not None:
            return Fetched([], missing)
        if sum(entry.size for _, entry in chain) > MAX_CONVERSATION:
            raise InvalidRequest(
                f"The conversation behind '{asked.id}' is larger than "
                f"{MAX_CONVERSATION // 1024**2} MiB. Begin a new one with a shorter 'input'.",
                param="previous_response_id",
            )
        return Fetched([entry.body for _, entry in chain])

    def forget(self, asked: Forget) -> bool:
        """Forget a response.

        Returns:
            Whether there was one.
        """
        return self._drop((asked.owner, asked.id))

    def _chain(self, owner: bytes, name: str | None) -> tuple[list[tuple[Key, _Entry]], str | None]:
        """Follow a response back to the first one.

        Returns:
            Those that are there, the oldest first, and the name of the one that is not, if any.
        """
        chain: dict[Key, _Entry] = {}
        # One that went on from itself, by whatever way, has no beginning.
        while name is not None and (owner, name) not in chain:
            entry = self._kept.get((owner, name))
            if entry is None:
                break
            chain[owner, name] = entry
            name = entry.previous
        return list(reversed(chain.items())), name

    def _drop(self, key: Key) -> bool:
        entry = self._kept.pop(key, None)
        if entry is None:
            return False
        self._bytes -= entry.size
        for item in entry.items:
            if self._holders.get((key[0], item)) == key[1]:
                del self._holders[key[0], item]
        return True
