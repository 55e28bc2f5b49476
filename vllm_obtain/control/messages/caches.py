"""Messages of the response cache and of the store of the Responses API."""

from __future__ import annotations

from vllm_obtain.control.messages.base import Reply, Request
from vllm_obtain.control.messages.leases import AcquireLease


class CacheLookup(Request, frozen=True):
    """Look up a deterministic request in the response cache. → CacheHit, or as AcquireLease.

    While another connection has a lease for the same key, the reply waits until that one has
    stored a response or is closed. A connection that gets a lease generates the response and sends
    `CacheStore`.

    Args:
        key: fingerprint of the request.
        acquire: the lease to acquire on a cache miss.
    """

    key: bytes
    acquire: AcquireLease


class CacheHit(Reply, frozen=True):
    """A cached response."""

    answer: bytes


class CacheStore(Request, frozen=True):
    """Store the response of the last `CacheLookup` on this connection. No reply."""

    answer: bytes


class StoreResponse(Request, frozen=True):
    """Store a response so that later ones can continue it. → ResponseStored.

    Args:
        owner: fingerprint of the caller's key. Other callers cannot load the response.
        id: id of the response.
        previous: id of the response that it continues, None for the first one.
        items: ids of its input and output items, by which it can be loaded too.
        body: the stored bytes, opaque to the supervisor.
    """

    owner: bytes
    id: str
    previous: str | None
    items: list[str]
    body: bytes


class ResponseStored(Reply, frozen=True):
    """Whether the response was stored, or existed and was deleted."""

    done: bool


class LoadResponse(Request, frozen=True):
    """Load a stored response. → ResponseLoaded.

    Args:
        owner: as in `StoreResponse`.
        id: id of the response, or of one of its items.
        whole: whether to load the responses that it continues too.
        item: whether `id` is the id of an item.
    """

    owner: bytes
    id: str
    whole: bool = False
    item: bool = False


class ResponseLoaded(Reply, frozen=True):
    """The loaded responses, the oldest first; none if `missing` names one that does not exist."""

    bodies: list[bytes]
    missing: str | None = None


class DeleteResponse(Request, frozen=True):
    """Delete a stored response. → ResponseStored."""

    owner: bytes
    id: str
