"""Static files of the documentation page, shipped with the package."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from flask import Response, request

from vllm_obtain.errors import NotFound

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "script.js": "text/javascript; charset=utf-8",
}
# The page may only connect to this service, and other pages may not embed it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def docs() -> Response:
    """GET /docs."""
    return _file("index.html")


def docs_file(file: str) -> Response:
    """GET /docs/{file}."""
    if file not in _TYPES or file == "index.html":
        raise NotFound("The file does not exist. The documentation page is /docs.")
    return _file(file)


def cacheable(content: bytes, content_type: str) -> Response:
    """Return a response that clients may cache, but must revalidate before each use."""
    response = Response(content, content_type=content_type)
    response.set_etag(_etag(content))
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.make_conditional(request)
    return response


def _file(name: str) -> Response:
    response = cacheable(_read(name), _TYPES[name])
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@cache
def _read(name: str) -> bytes:
    return files("vllm_obtain.gateway.apidocs").joinpath("page", name).read_bytes()


@cache
def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
