"""API keys. A key is shown once, when it is created. Only its hash is stored."""

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


class ApiKey(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stored API key: its hash, scopes and limits, but not the secret.

    Args:
        id: public identifier, used in logs, lists and `revoke`.
        hash: hexadecimal SHA-256 of the key. A fast hash is enough, since generated keys have
            256 random bits.
        scopes: what the key allows. `admin` includes `inference`.
        created: Unix time in seconds.
        name: a label set by the operator.
        expires: Unix time in seconds, None if the key does not expire.
        requests_per_minute, tokens_per_minute: limits of this key, None for those of the settings.
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
        """Whether the key has a scope."""
        return scope in self.scopes or ADMIN in self.scopes

    @property
    def is_expired(self) -> bool:
        """Whether the key has expired."""
        return self.expires is not None and time.time() >= self.expires

    def matches(self, digest: str) -> bool:
        """Compare the stored hash with another one in constant time."""
        return hmac.compare_digest(self.hash, digest)


def digest(token: str) -> str:
    """Return the hash under which a key is stored."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def new(
    scopes: list[Scope],
    *,
    name: str = "",
    expires: int | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> tuple[str, ApiKey]:
    """Create a key; arguments as in `ApiKey`.

    Returns:
        The secret for the client, and the record to store.
    """
    id_ = secrets.token_hex(4)
    token = f"vo-{id_}-{secrets.token_urlsafe(32)}"
    key = ApiKey(
        id=id_,
        hash=digest(token),
        scopes=scopes,
        created=int(time.time()),
        name=name,
        expires=expires,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    return token, key
