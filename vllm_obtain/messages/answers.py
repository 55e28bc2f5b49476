"""Answers that are kept: for identical requests, and for those that go on from one."""

from __future__ import annotations

from vllm_obtain.messages.base import Message
from vllm_obtain.messages.leases import Acquire


class Recall(Message, frozen=True):
    """Ask for the answer to a deterministic request. → Remembered, or as Acquire.

    While another connection has a lease for the same key, there is no answer until it has
    remembered one or is gone. Who is granted a lease finds the answer, and remembers it.

    Args:
        key: fingerprint of the request.
        acquire: a lease for it.
    """

    key: bytes
    acquire: Acquire


class Remembered(Message, frozen=True):
    """An answer from the cache."""

    answer: bytes


class Remember(Message, frozen=True):
    """The answer that nobody knew when I recalled it. No answer."""

    answer: bytes


class Keep(Message, frozen=True):
    """Keep a response so that later ones can go on from it. → Kept.

    Args:
        owner: a fingerprint of the caller's key; nobody else finds it.
        id: of the response.
        previous: the response that it went on from.
        items: ids of its own input and output items, by which it is found too.
        body: what is kept; the supervisor never looks into it.
    """

    owner: bytes
    id: str
    previous: str | None
    items: list[str]
    body: bytes


class Kept(Message, frozen=True):
    """Whether the response was kept, or was there to forget."""

    done: bool


class Fetch(Message, frozen=True):
    """Ask for a kept response. → Fetched.

    Args:
        owner: as in `Keep`.
        id: of the response.
        whole: whether all those that it went on from are wanted too.
        item: whether `id` is that of an item, whose response is wanted.
    """

    owner: bytes
    id: str
    whole: bool = False
    item: bool = False


class Fetched(Message, frozen=True):
    """Kept responses, the oldest first; none when `missing` says which one is not there."""

    bodies: list[bytes]
    missing: str | None = None


class Forget(Message, frozen=True):
    """Forget a kept response. → Kept, which says whether there was one."""

    owner: bytes
    id: str
