"""The keys that there are, and what each of them took."""

from __future__ import annotations

from flask import Response
from msgspec import Struct

from vllm_obtain.access.key import Key, Scope
from vllm_obtain.api.account import limits_of
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import services
from vllm_obtain.messages import KeyUsage, Usage, UsageReply


class KeyBody(Struct):
    """A key, by its id, and what it took since the supervisor started."""

    id: str
    name: str
    scopes: list[Scope]
    created: int | None
    expires: int | None
    expired: bool
    requests_per_minute: int | None
    tokens_per_minute: int | None
    usage: KeyUsage


class KeyList(Struct):
    """All keys, those in API_KEYS too."""

    data: list[KeyBody]
    object: str = "list"


def index() -> Response:
    """GET /v1/system/keys."""
    made = services()
    made.reporter.flush()
    usage = made.supervisor.ask(Usage(), UsageReply).keys
    data = [_body(key, usage.get(key.id, KeyUsage())) for key in made.keys.all]
    return reply(KeyList(data))


def _body(key: Key, usage: KeyUsage) -> KeyBody:
    requests, tokens = limits_of(key, services().settings)
    return KeyBody(
        id=key.id,
        name=key.name,
        scopes=key.scopes,
        created=key.created or None,
        expires=key.expires,
        expired=key.is_expired,
        requests_per_minute=requests or None,
        tokens_per_minute=tokens or None,
        usage=usage,
    )
