"""At the connection limit: new requests are refused politely, and /health answers."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from bench import checks
from bench.client import Stream, post, stream
from bench.pinger import ping
from bench.service import Service
from bench.stub import client_body

LIMIT = 64
_TRIES = 20
_RETRY_AFTER = re.compile(rb"(?i)\r\nretry-after: *(\d+)")
_HEALTH = b"GET /health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


def measure(service: Service) -> tuple[dict[str, Any], list[checks.Check]]:
    """Open streams until one is refused, then look.

    Args:
        service: one in front of the stub engine, with WORKER_CONNECTIONS=LIMIT.
    """
    figures = asyncio.run(_fill(service))
    return figures, [
        checks.refusals(figures["refused_with_503_and_retry_after"], _TRIES),
        checks.health_at_limit(figures["health_answered"], _TRIES),
    ]


async def _fill(service: Service) -> dict[str, Any]:
    opened: list[Stream] = []
    try:
        async with asyncio.timeout(60):
            await _open_until_refused(service, opened)
            refused = [await stream(service.gateway, _request(4)) for _ in range(_TRIES)]
            health = [await ping(service.gateway, _HEALTH, 1, 0.001) for _ in range(_TRIES)]
    finally:
        for held in opened:
            held.abort()
    polite = [o for o in refused if o.status == 503 and _RETRY_AFTER.search(o.head)]
    return {
        "worker_connections": LIMIT,
        "open_streams": len(opened) - 1,
        "tries": _TRIES,
        "refused_with_503_and_retry_after": len(polite),
        "health_answered": sum(bool(pings.waits) for pings in health),
    }


async def _open_until_refused(service: Service, opened: list[Stream]) -> None:
    while len(opened) <= 2 * LIMIT:
        held = Stream(_request(1000))
        opened.append(held)
        await service.gateway.connect(held)
        while held.outcome.first is None and not held.over.done():
            await asyncio.sleep(0.005)
        if held.over.done():
            return


def _request(chunks: int) -> bytes:
    return post(client_body(chunks, "pace 0.5"))
