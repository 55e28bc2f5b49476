"""Behavior at the connection limit: new requests get a 503 with Retry-After, /health responds."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from bench import checks
from bench.client import Stream, post, stream
from bench.closed_loop import closed_loop
from bench.service import Service
from bench.stub import client_body

LIMIT = 64
_ATTEMPTS = 20
_RETRY_AFTER = re.compile(rb"(?i)\r\nretry-after: *(\d+)")
_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def measure(service: Service) -> tuple[dict[str, Any], list[checks.Check]]:
    """Open streams until one is rejected, then send requests above the limit.

    Args:
        service: a service in front of the stub engine, with WORKER_CONNECTIONS=LIMIT.
    """
    figures = asyncio.run(_exceed(service))
    return figures, [
        checks.rejections(figures["rejected_with_503_and_retry_after"], _ATTEMPTS),
        checks.health_at_limit(figures["health_responses"], _ATTEMPTS),
    ]


async def _exceed(service: Service) -> dict[str, Any]:
    streams: list[Stream] = []
    try:
        async with asyncio.timeout(60):
            await _open_until_rejected(service, streams)
            rejected = [await stream(service.gateway, _request(4)) for _ in range(_ATTEMPTS)]
            health = [
                await closed_loop(service.gateway, _HEALTH, 1, 0.001) for _ in range(_ATTEMPTS)
            ]
    finally:
        for each in streams:
            each.abort()
    correct = [o for o in rejected if o.status == 503 and _RETRY_AFTER.search(o.head)]
    return {
        "worker_connections": LIMIT,
        "open_streams": len(streams) - 1,
        "attempts": _ATTEMPTS,
        "rejected_with_503_and_retry_after": len(correct),
        "health_responses": sum(bool(result.latencies) for result in health),
    }


async def _open_until_rejected(service: Service, streams: list[Stream]) -> None:
    while len(streams) <= 2 * LIMIT:
        new = Stream(_request(1000))
        streams.append(new)
        await service.gateway.connect(new)
        while new.outcome.first is None and not new.closed.done():
            await asyncio.sleep(0.005)
        if new.closed.done():
            return


def _request(chunks: int) -> bytes:
    return post(client_body(chunks, "pace 0.5"))
