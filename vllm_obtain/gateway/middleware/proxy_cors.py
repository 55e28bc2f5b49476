"""Reverse proxy headers, URL_PREFIX and CORS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flask import Response, g, request

from vllm_obtain.gateway.core.services import Services
from vllm_obtain.gateway.middleware.body import Wsgi


class Prefix:
    """Removes URL_PREFIX from paths; paths without it come from a proxy that already removed it.

    Args:
        app: the wrapped WSGI app.
        prefix: the prefix, such as /llm.
    """

    def __init__(self, app: Wsgi, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + self._prefix
            environ["PATH_INFO"] = path[len(self._prefix) :] or "/"
        return self._app(environ, start_response)


def read_proxy_headers(services: Services) -> None:
    """Take the client's address and the scheme from the headers of a trusted proxy."""
    peer = request.remote_addr or ""
    g.relayed = services.proxies.trusts(peer)
    if not g.relayed:
        return
    request.remote_addr = services.proxies.client(peer, request.headers.get("X-Forwarded-For", ""))
    scheme = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
    if scheme in ("http", "https"):
        request.scheme = scheme


def answer_preflight(services: Services) -> Response | None:
    """Respond to a preflight request of an allowed page; None for all other requests.

    Raises:
        HostNotAllowed: the host name is not allowed.
    """
    origin = request.headers.get("Origin", "")
    is_preflight = (
        request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    )
    if not is_preflight or not services.cors.allows(origin):
        return None
    host = request.environ.get("HTTP_HOST", "")
    services.allowed_hosts.check(host, services.authenticator.required)
    headers = request.headers.get("Access-Control-Request-Headers", "")
    private = "Access-Control-Request-Private-Network" in request.headers
    return Response(status=204, headers=services.cors.preflight(origin, headers, private))


def add_headers(services: Services, response: Response) -> None:
    origin = request.headers.get("Origin", "")
    if origin:
        response.headers.update(services.cors.response_headers(origin))
    if not services.cors.any:
        response.vary.add("Origin")
