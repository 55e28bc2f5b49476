"""Routes that list and clear quarantined requests."""

from __future__ import annotations

from flask import Response
from msgspec import Struct

from vllm_obtain.control.messages import (
    ClearQuarantine,
    ListQuarantine,
    QuarantineCleared,
    QuarantineEntry,
    QuarantineReply,
)
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import current_services


class QuarantineList(Struct):
    """Quarantined requests."""

    data: list[QuarantineEntry]
    object: str = "list"


class Cleared(Struct):
    """The result of clearing the quarantine."""

    cleared: int


def index() -> Response:
    """GET /v1/quarantine."""
    quarantine = current_services().supervisor.request(ListQuarantine(), QuarantineReply)
    return reply(QuarantineList(quarantine.refused))


def clear() -> Response:
    """DELETE /v1/quarantine."""
    return reply(
        Cleared(current_services().supervisor.request(ClearQuarantine(), QuarantineCleared).count)
    )
