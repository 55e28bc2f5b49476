"""Requests of a gateway that is being replaced by a new version; see `upgrading`.

What comes to a worker whose master has made room for the new version waits here, before anything
else is done with it: then it goes on here if that version does not serve, else over to it.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

from vllm_obtain.api.reading import Wsgi, end_connection
from vllm_obtain.api.services import Services
from vllm_obtain.settings import Settings

# The words of `upgrading/phase.py`. HOLD: what would need an engine waits. RELAY: the new version
# serves, and what waited goes there. LEAVE: it serves, and what is here is finished here.
HOLD, RELAY, LEAVE = "hold", "relay", "leave"
INTERVAL = 0.1
_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
# What is between two neighbours only.
_OWN = frozenset(
    "connection keep-alive proxy-connection te trailer transfer-encoding upgrade date".split()
)
_PIECE = 65536


class Holding:
    """Lets requests wait, and passes them on.

    Args:
        app: what answers otherwise.
        made: the services of this process.
    """

    def __init__(self, app: Wsgi, made: Services) -> None:
        self._app = app
        self._made = made

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer, as WSGI asks it."""
        made = self._made
        if made.phase not in (HOLD, RELAY) or environ["REQUEST_METHOD"] in _HARMLESS:
            return self._app(environ, start_response)
        client = environ.get("gunicorn.socket")
        if client is not None:
            made.connections.working(client)
        while made.phase == HOLD or (made.phase == RELAY and not made.closed):
            time.sleep(INTERVAL)
        if made.phase != RELAY:
            return self._app(environ, start_response)
        line = _connection(made.settings)
        try:
            line.connect()
        except OSError:  # it has ended: what is left here is better than nothing
            return self._app(environ, start_response)
        end_connection(environ)
        return _relayed(line, environ, start_response)


def _relayed(
    line: http.client.HTTPConnection, environ: dict[str, Any], start_response: Any
) -> Iterator[bytes]:
    """Have the new version answer: it listens where this one did."""
    with contextlib.closing(line):
        line.request(
            environ["REQUEST_METHOD"],
            environ["RAW_URI"],
            _body(environ),
            _headers(environ),
            encode_chunked="HTTP_TRANSFER_ENCODING" in environ,
        )
        answer = line.getresponse()
        headers = [(name, value) for name, value in answer.getheaders() if _passes(name)]
        start_response(f"{answer.status} {answer.reason}", headers)
        while piece := answer.read1(_PIECE):
            yield piece


def _connection(settings: Settings) -> http.client.HTTPConnection:
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound
    host = anywhere.get(settings.host, settings.host)
    if not settings.tls_certfile:
        return http.client.HTTPConnection(host, settings.port)
    # Nobody but the new version can listen there: both hold the same socket.
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, settings.port, context=trusting)


def _body(environ: dict[str, Any]) -> Any:
    has_one = environ.get("CONTENT_LENGTH") or "HTTP_TRANSFER_ENCODING" in environ
    return iter(lambda: environ["wsgi.input"].read(_PIECE), b"") if has_one else None


def _headers(environ: dict[str, Any]) -> dict[str, str]:
    found = {
        name[5:].replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") and _passes(name[5:].replace("_", "-"))
    }
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            found[name.replace("_", "-")] = environ[name]
    if "HTTP_TRANSFER_ENCODING" in environ:
        found["Transfer-Encoding"] = "chunked"
    return found


def _passes(name: str) -> bool:
    return name.lower() not in _OWN
