"""Holds requests during an upgrade, and forwards them to the new version (see `server/upgrade`).

A master that unloads its models for the new version holds new requests. They continue here if the
new version does not start, and are forwarded to it otherwise.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

from vllm_obtain.config.settings import Settings
from vllm_obtain.gateway.core.services import Services
from vllm_obtain.gateway.middleware.body import Wsgi, end_connection

# The phases (`server/upgrade/phase.py`). HOLD: requests that need an engine wait. RELAY: the new
# version serves, and waiting requests are forwarded to it. LEAVE: it serves, this one drains.
HOLD, RELAY, LEAVE = "hold", "relay", "leave"
INTERVAL = 0.1
_WITHOUT_ENGINE = frozenset({"GET", "HEAD", "OPTIONS"})
# Hop-by-hop headers.
_HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-connection te trailer transfer-encoding upgrade date".split()
)
_PIECE = 65536


class UpgradeHold:
    """Holds and forwards requests.

    Args:
        app: the wrapped WSGI app, which handles all other requests.
        services: the services of this worker.
    """

    def __init__(self, app: Wsgi, services: Services) -> None:
        self._app = app
        self._services = services

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        services = self._services
        if services.phase not in (HOLD, RELAY) or environ["REQUEST_METHOD"] in _WITHOUT_ENGINE:
            return self._app(environ, start_response)
        client = environ.get("gunicorn.socket")
        if client is not None:
            services.connections.working(client)
        while services.phase == HOLD or (services.phase == RELAY and not services.closed):
            time.sleep(INTERVAL)
        if services.phase != RELAY:
            return self._app(environ, start_response)
        connection = _connection(services.settings)
        try:
            connection.connect()
        except OSError:  # the new version ended, so try to handle the request here
            return self._app(environ, start_response)
        end_connection(environ)
        return _forward(connection, environ, start_response)


def _forward(
    connection: http.client.HTTPConnection, environ: dict[str, Any], start_response: Any
) -> Iterator[bytes]:
    """Forward a request to the new version, which listens on the same address."""
    with contextlib.closing(connection):
        connection.request(
            environ["REQUEST_METHOD"],
            environ["RAW_URI"],
            _body(environ),
            _headers(environ),
            encode_chunked="HTTP_TRANSFER_ENCODING" in environ,
        )
        response = connection.getresponse()
        headers = [(name, value) for name, value in response.getheaders() if _is_forwarded(name)]
        start_response(f"{response.status} {response.reason}", headers)
        while piece := response.read1(_PIECE):
            yield piece


def _connection(settings: Settings) -> http.client.HTTPConnection:
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound
    host = wildcards.get(settings.host, settings.host)
    if not settings.tls_certfile:
        return http.client.HTTPConnection(host, settings.port)
    # Only the new version can listen there, because both versions share the listening socket.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, settings.port, context=context)


def _body(environ: dict[str, Any]) -> Any:
    has_body = environ.get("CONTENT_LENGTH") or "HTTP_TRANSFER_ENCODING" in environ
    return iter(lambda: environ["wsgi.input"].read(_PIECE), b"") if has_body else None


def _headers(environ: dict[str, Any]) -> dict[str, str]:
    headers = {
        name[5:].replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") and _is_forwarded(name[5:].replace("_", "-"))
    }
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers[name.replace("_", "-")] = environ[name]
    if "HTTP_TRANSFER_ENCODING" in environ:
        headers["Transfer-Encoding"] = "chunked"
    return headers


def _is_forwarded(name: str) -> bool:
    return name.lower() not in _HOP_BY_HOP
