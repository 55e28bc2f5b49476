"""JSON responses."""

from __future__ import annotations

import msgspec
from flask import Response


def reply(body: msgspec.Struct | bytes, status: int = 200) -> Response:
    """Create a JSON response.

    Args:
        body: object to encode, or encoded JSON.
        status: HTTP status.
    """
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(data, status, mimetype="application/json")
