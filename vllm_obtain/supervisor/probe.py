"""Waiting for a young engine: until it lives, then until a first token came out of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_obtain.supervisor.process import EngineProcess
from vllm_obtain.supervisor.quarantine import caused_itself

INTERVAL = 0.05
# Seconds in which an engine that broke off its answer shows whether it has ended.
LAST_WORDS = 1.0
# Seconds in which an engine that broke a connection is given no requests, unless it answers.
DOUBT = 3.0
# Chunks before the last one carry `"finish_reason":null`.
FINISHED = re.compile(rb'"finish_reason":\s*"')
EMBEDDED = re.compile(rb'"embedding":\s*["\[]')


class NotReady(Exception):
    """The engine will give no token; the message says what came instead."""


class Killed(NotReady):
    """Somebody else ended it, which says nothing about whether it would have worked."""


async def until_ready(
    process: EngineProcess,
    socket: Path,
    path: str,
    body: Mapping[str, Any],
    sign: re.Pattern[bytes] = FINISHED,
) -> None:
    """Wait until an engine has answered for the first time; for ever, if it does not end.

    Args:
        process: the engine, started.
        socket: where it will listen.
        path: its route for what it does.
        body: what to ask it.
        sign: what a good answer holds.

    Raises:
        NotReady: it ended, or answered something else.
    """
    ending = asyncio.create_task(process.wait())
    probing = asyncio.create_task(_first(socket, path, json.dumps(body).encode(), sign))
    try:
        await asyncio.wait({ending, probing}, return_when=asyncio.FIRST_COMPLETED)
        problem = probing.result() if probing.done() else None
        if problem is not None:
            # One that dies breaks its connection before it is seen to be dead.
            await asyncio.wait({ending}, timeout=LAST_WORDS)
        if ending.done():
            status = ending.result()
            made = NotReady if caused_itself(status) else Killed
            raise made(f"it exited with status {status}")
        if problem is not None:
            raise NotReady(problem)
    finally:
        ending.cancel()
        probing.cancel()


async def until_lives_or_ends(process: EngineProcess, socket: Path) -> None:
    """Wait until an engine has answered or ended; DOUBT seconds at most.

    Args:
        process: the engine, ready before.
        socket: where it listened.
    """
    ending = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(DOUBT):
            while not ending.done() and not await healthy(socket):
                await asyncio.wait({ending}, timeout=INTERVAL)
    except TimeoutError:
        return
    finally:
        ending.cancel()


async def healthy(socket: Path, timeout: float = 2.0) -> bool:
    """Whether the engine answers GET /health with 200 within `timeout` seconds."""
    return (await _get(socket, "/health", timeout)).startswith(b"HTTP/1.1 200")


async def ask_metrics(socket: Path, timeout: float) -> bytes | None:
    """Return the body of GET /metrics, None when none came within `timeout` seconds."""
    answer = await _get(socket, "/metrics", timeout)
    return answer.partition(b"\r\n\r\n")[2] if answer else None


async def until_said(
    socket: Path, path: str, body: Mapping[str, Any], sign: re.Pattern[bytes], timeout: float
) -> bool:
    """Whether a running engine answers a question within `timeout` seconds; as `until_ready`."""
    try:
        async with asyncio.timeout(timeout):
            return await _first(socket, path, json.dumps(body).encode(), sign) is None
    except (OSError, TimeoutError):
        return False


async def _first(socket: Path, path: str, data: bytes, sign: re.Pattern[bytes]) -> str | None:
    """Have the engine work; None when its answer came to its end, else what came instead."""
    while not await healthy(socket):
        await asyncio.sleep(INTERVAL)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    try:
        answer = await _exchange(socket, head.encode() + data)
    except OSError as error:
        return f"its first answer broke off: {error}"
    if answer.startswith(b"HTTP/1.1 200") and sign.search(answer) and b'"error"' not in answer:
        return None
    said = answer[-300:].decode(errors="replace").strip()
    return f"its first answer was: {said or 'nothing'}"


async def _get(socket: Path, path: str, timeout: float) -> bytes:
    """Ask for a page; what came is empty when it did not come in time."""
    request = f"GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(timeout):
            return await _exchange(socket, request.encode())
    except (OSError, TimeoutError):
        return b""


async def _exchange(socket: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(request)
        return await reader.read(-1)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
