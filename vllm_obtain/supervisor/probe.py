"""Asking a young engine whether it lives, and for a first token."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any


async def healthy(socket: Path, timeout: float = 2.0) -> bool:
    """Whether the engine answers GET /health with 200 within `timeout` seconds."""
    request = b"GET /health HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(timeout):
            answer = await _exchange(socket, request)
    except (OSError, TimeoutError):
        return False
    return answer.startswith(b"HTTP/1.1 200")


async def first_token(socket: Path, path: str, body: dict[str, Any]) -> str | None:
    """Have the engine generate.

    Returns:
        None when a completion came to its end, otherwise what came instead.
    """
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    try:
        answer = await _exchange(socket, head.encode() + data)
    except OSError as error:
        return f"its connection broke: {error}"
    if (
        answer.startswith(b"HTTP/1.1 200")
        and b"finish_reason" in answer
        and b'"error"' not in answer
    ):
        return None
    return answer[-300:].decode(errors="replace")


async def _exchange(socket: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(request)
        return await reader.read(-1)
    finally:
        writer.close()
