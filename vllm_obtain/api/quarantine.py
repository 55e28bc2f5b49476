"""Requests that are refused since they crash engines, and what names a request there."""

from __future__ import annotations

import msgspec
from flask import Response
from msgspec import Struct

from vllm_obtain.api.services import services
from vllm_obtain.messages import Pardon, Pardoned, Quarantined, QuarantineReply, Suspects


class QuarantineList(Struct):
    """Requests that are refused."""

    data: list[Quarantined]
    object: str = "list"


class Cleared(Struct):
    """How many requests are no longer refused."""

    cleared: int


def index() -> Response:
    """GET /v1/quarantine."""
    reply = services().supervisor.ask(Suspects(), QuarantineReply)
    return _json(QuarantineList(reply.refused))


def clear() -> Response:
    """DELETE /v1/quarantine."""
    return _json(Cleared(services().supervisor.ask(Pardon(), Pardoned).count))


def _json(body: Struct) -> Response:
    return Response(msgspec.json.encode(body), mimetype="application/json")
