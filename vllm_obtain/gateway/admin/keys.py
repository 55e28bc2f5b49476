"""Route that lists API keys and their usage."""

from __future__ import annotations

from flask import Response
from msgspec import Struct

from vllm_obtain.access.api_key import ApiKey, Scope
from vllm_obtain.control.messages import KeyUsage, Usage, UsageReply
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.quota import limits_of
from vllm_obtain.gateway.core.services import current_services


class KeyBody(Struct):
    """An API key and its usage since the supervisor started."""

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
    """All API keys, those from API_KEYS included."""

    data: list[KeyBody]
    object: str = "list"


def index() -> Response:
    """GET /v1/system/keys."""
    services = current_services()
    services.reporter.flush()
    usage = services.supervisor.request(Usage(), UsageReply).keys
    data = [_body(key, usage.get(key.id, KeyUsage())) for key in services.authenticator.all]
    return reply(KeyList(data))


def _body(key: ApiKey, usage: KeyUsage) -> KeyBody:
    requests, tokens = limits_of(key, current_services().settings)
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
