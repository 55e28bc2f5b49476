"""Plain answers: a body of JSON."""

from __future__ import annotations

import msgspec
from flask import Response


def reply(body: msgspec.Struct | bytes, status: int = 200) -> Response:
    """Make an answer of a body.

    Args:
        body: what to tell, or its JSON.
        status: of HTTP.
    """
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(data, status, mimetype="application/json")
