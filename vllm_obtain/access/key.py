"""What an API key is. The key itself is told once, when it is made; only its hash is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Literal

from msgspec import Struct

Scope = Literal["inference", "admin"]

INFERENCE: Scope = "inference"
ADMIN: Scope = "admin"


class Key(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key, without what would let anybody in.

    Args:
        id: names it in logs, lists and `revoke`; no secret.
        hash: SHA-256 of the key, in hexadecimal. A fast hash is enough: the keys that are kept
            have 256 random bits, which nobody tries out.
        scopes: what it is for. Whoever may administrate may ask for text too.
        created: seconds since 1970.
        name: the owner's word for it.
        expires: seconds since 1970, None for never.
        requests_per_minute, tokens_per_minute: its own limits, None for those of the settings.
    """

    id: str
    hash: str
    scopes: list[Scope]
    created: int = 0
    name: str = ""
    expires: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def may(self, scope: Scope) -> bool:
        """Say whether it is for this."""
        return scope in self.scopes or ADMIN in self.scopes

    @property
    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and time.time() >= self.expires

    def fits(self, digest: str) -> bool:
        """Compare with the hash of what a client sent, in the same time wherever they differ."""
        return hmac.compare_digest(self.hash, digest)


def digest(token: str) -> str:
    """Hash a key as it is kept."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def new(
    scopes: list[Scope],
    *,
    name: str = "",
    expires: int | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> tuple[str, Key]:
    """Make a key; arguments as in `Key`.

    Returns:
        What the client sends, and what is kept of it.
    """
    name_of_it = secrets.token_hex(4)
    token = f"vo-{name_of_it}-{secrets.token_urlsafe(32)}"
    key = Key(
        id=name_of_it,
        hash=digest(token),
        scopes=scopes,
        created=int(time.time()),
        name=name,
        expires=expires,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    return token, key
