"""Requests that are refused since they crash engines."""

from __future__ import annotations

from flask import Response
from msgspec import Struct

from vllm_obtain.api.reply import reply
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
    told = services().supervisor.ask(Suspects(), QuarantineReply)
    return reply(QuarantineList(told.refused))


def clear() -> Response:
    """DELETE /v1/quarantine."""
    return reply(Cleared(services().supervisor.ask(Pardon(), Pardoned).count))
