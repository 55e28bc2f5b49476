"""What comes before a request is one of ours: proxies, a prefix, its name, and browsers' pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, g, request

from vllm_obtain.access.origins import Origins
from vllm_obtain.access.proxies import Proxies
from vllm_obtain.api.services import services
from vllm_obtain.settings import Settings

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


def register(app: Flask, settings: Settings, origins: Origins) -> None:
    """Put it before an app's requests; what is not set costs nothing.

    Args:
        app: the app.
        settings: the owner's settings.
        origins: the pages that may ask.
    """
    if settings.url_prefix:
        app.wsgi_app = Prefix(app.wsgi_app, settings.url_prefix)  # type: ignore[method-assign]
    if settings.trusted_proxies:
        app.before_request(_forwarding(Proxies(settings)))
    if settings.cors_origins:
        app.before_request(_preflight(origins))
        app.after_request(_sharing(origins))


class Prefix:
    """Takes URL_PREFIX off paths. Whoever asks without it has a proxy that has done so already.

    Args:
        app: what answers.
        prefix: such as /llm.
    """

    def __init__(self, app: Wsgi, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer, as WSGI asks it."""
        path = environ.get("PATH_INFO", "")
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + self._prefix
            environ["PATH_INFO"] = path[len(self._prefix) :] or "/"
        return self._app(environ, start_response)


def _forwarding(proxies: Proxies) -> Callable[[], None]:
    def forwarded() -> None:
        peer = request.remote_addr or ""
        g.relayed = proxies.trusts(peer)
        if not g.relayed:
            return
        request.remote_addr = proxies.client(peer, request.headers.get("X-Forwarded-For", ""))
        scheme = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
        if scheme in ("http", "https"):
            request.scheme = scheme

    return forwarded


def _preflight(origins: Origins) -> Callable[[], Response | None]:
    def preflight() -> Response | None:
        origin = request.headers.get("Origin", "")
        asked = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asked or not origins.allows(origin):
            return None
        services().hosts.check(request.environ.get("HTTP_HOST", ""))
        wanted = request.headers.get("Access-Control-Request-Headers", "")
        private = "Access-Control-Request-Private-Network" in request.headers
        return Response(status=204, headers=origins.preflight(origin, wanted, private))

    return preflight


def _sharing(origins: Origins) -> Callable[[Response], Response]:
    def share(response: Response) -> Response:
        origin = request.headers.get("Origin", "")
        if origin:
            response.headers.update(origins.answer(origin))
        if not origins.any:
            response.vary.add("Origin")
        return response

    return share
