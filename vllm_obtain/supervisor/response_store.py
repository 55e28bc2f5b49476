"""The response store of the Responses API, shared by all workers."""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from vllm_obtain.control.framing import MAX_FRAME
from vllm_obtain.control.messages import (
    DeleteResponse,
    LoadResponse,
    ResponseLoaded,
    ResponseStored,
    StoreResponse,
)
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.supervisor.handlers import Handlers

# In addition to RESPONSES_STORE_MB, since many small entries have a large overhead in Python.
MAX_RESPONSES = 20_000
# A conversation is sent in one frame.
MAX_CONVERSATION = MAX_FRAME - 1024 * 1024
# Approximate bytes of an entry in addition to its body.
_OVERHEAD = 512

Key = tuple[bytes, str]


class _Entry(Struct):
    """A stored response."""

    body: bytes
    previous: str | None
    items: list[str]

    @property
    def size(self) -> int:
        return len(self.body) + sum(map(len, self.items)) + _OVERHEAD


class ResponseStore:
    """An LRU store. A use of a response counts as a use of all responses that it continues.

    Args:
        max_bytes: maximum size of all responses; 0 disables the store.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._response_ids: dict[Key, str] = {}  # id of the response of each item
        self._bytes = 0
        self.handlers: Handlers = {
            StoreResponse: lambda message: ResponseStored(self.store(message)),
            LoadResponse: self.load,
            DeleteResponse: lambda message: ResponseStored(self.delete(message)),
        }

    @property
    def size(self) -> dict[str, int]:
        """Number of entries and their bytes."""
        return {"entries": len(self._entries), "bytes": self._bytes}

    def store(self, request: StoreResponse) -> bool:
        """Store a response, evicting the least recently used ones.

        Returns:
            False if it is larger than the store or than a conversation may be.
        """
        entry = _Entry(request.body, request.previous, request.items)
        if entry.size > min(self._max_bytes, MAX_CONVERSATION):
            return False
        self._drop((request.owner, request.id))
        # A new response counts as a use of the previous ones, so that an active conversation does
        # not lose its first responses.
        for key, _ in self._chain(request.owner, request.previous)[0]:
            self._entries.move_to_end(key)
        self._entries[request.owner, request.id] = entry
        self._bytes += entry.size
        for item in request.items:
            self._response_ids[request.owner, item] = request.id
        while self._bytes > self._max_bytes or len(self._entries) > MAX_RESPONSES:
            self._drop(next(iter(self._entries)))
        return (request.owner, request.id) in self._entries

    def load(self, request: LoadResponse) -> ResponseLoaded:
        """Load a response, or with `whole` the conversation up to it.

        Raises:
            InvalidRequest: the conversation is too large to be sent.
        """
        response_id = request.id
        if request.item:
            response_id = self._response_ids.get((request.owner, request.id), "")
        chain, missing = self._chain(request.owner, response_id)
        for key, _ in chain:
            self._entries.move_to_end(key)
        if not request.whole:
            return ResponseLoaded([chain[-1][1].body]) if chain else ResponseLoaded([], request.id)
        if missing is not None:
            return ResponseLoaded([], missing)
        if sum(entry.size for _, entry in chain) > MAX_CONVERSATION:
            raise InvalidRequest(
                f"The conversation up to '{request.id}' is larger than "
                f"{MAX_CONVERSATION // 1024**2} MiB. Start a new one with a shorter 'input'.",
                param="previous_response_id",
            )
        return ResponseLoaded([entry.body for _, entry in chain])

    def delete(self, request: DeleteResponse) -> bool:
        """Delete a response.

        Returns:
            Whether it existed.
        """
        return self._drop((request.owner, request.id))

    def _chain(
        self, owner: bytes, response_id: str | None
    ) -> tuple[list[tuple[Key, _Entry]], str | None]:
        """Collect a response and those that it continues.

        Returns:
            The existing ones, the oldest first, and the id of the first missing one, if any.
        """
        chain: dict[Key, _Entry] = {}
        # Stops at a cycle.
        while response_id is not None and (owner, response_id) not in chain:
            entry = self._entries.get((owner, response_id))
            if entry is None:
                break
            chain[owner, response_id] = entry
            response_id = entry.previous
        return list(reversed(chain.items())), response_id

    def _drop(self, key: Key) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._bytes -= entry.size
        for item in entry.items:
            if self._response_ids.get((key[0], item)) == key[1]:
                del self._response_ids[key[0], item]
        return True
