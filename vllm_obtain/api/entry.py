"""Whether a request is let in, decided before anything of it is read but its head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flask import Flask, g, request

from vllm_obtain.access.binding import check_peer
from vllm_obtain.access.key import ADMIN, Key, Scope
from vllm_obtain.access.keys import need
from vllm_obtain.api.account import Account
from vllm_obtain.api.route import Access, Route
from vllm_obtain.api.services import Services, services


def register(app: Flask, routes: Iterable[Route]) -> None:
    """Guard an app's requests, after the hooks that say in which shape they are refused."""
    access: dict[str | None, Access] = {route.endpoint: route.access for route in routes}

    def guard() -> None:
        # What is no route is nobody's business either.
        _guard(access.get(request.endpoint, "inference"))

    app.before_request(guard)


def caller() -> Key | None:
    """Tell whose request this is, None where no keys are needed."""
    key: Key | None = g.get("key")
    return key


def account() -> Account:
    """Find the account that the request goes on."""
    if "account" not in g:
        g.account = Account(caller(), services().settings)
    made: Account = g.account
    return made


def owner() -> str:
    """Name who alone may see what is kept of this request: a key, or whatever the client shows."""
    key = caller()
    if key is not None:
        # Not its id: those of API_KEYS say where a key stands, and it may stand elsewhere tomorrow.
        return f"key {key.hash}"
    return request.headers.get("Authorization") or request.headers.get("x-api-key", "")


def require(scope: Scope, what: str) -> None:
    """Refuse a part of a request that its key is not for; arguments as in `keys.need`."""
    need(caller(), scope, what)


def _guard(access: Access) -> None:
    if access == "open":
        return
    made, environ = services(), request.environ
    host = environ.get("HTTP_HOST", "")
    made.hosts.check(host)
    if not made.keys.required:
        check_peer(request.remote_addr or "")
        if origin := environ.get("HTTP_ORIGIN"):
            made.origins.check(origin, host)
    elif not _is_public(made, access):
        g.key = made.keys.admit(_shown(environ))
        need(g.key, ADMIN if access == "admin" else "inference", "This route")


def _is_public(made: Services, access: Access) -> bool:
    public = {"docs": made.settings.public_docs, "metrics": made.settings.public_metrics}
    return public.get(access, False)


def _shown(environ: Mapping[str, Any]) -> Iterator[str]:
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        yield token.strip()
    if token := environ.get("HTTP_X_API_KEY", "").strip():
        yield token
