"""Readiness probe: waits for the socket of an engine, then for its first generated token."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_obtain.supervisor.engine.process import EngineProcess
from vllm_obtain.supervisor.scheduling.quarantine import caused_itself

INTERVAL = 0.05
# Seconds to wait for the end of a process after it broke the connection.
EXIT_TIMEOUT = 1.0
# Maximum seconds without admission after a broken connection.
LIVENESS_TIMEOUT = 3.0
# Chunks before the last one have `"finish_reason":null`.
FINISHED = re.compile(rb'"finish_reason":\s*"')
EMBEDDED = re.compile(rb'"embedding":\s*["\[]')


class NotReady(Exception):
    """The engine did not generate a token. The message has the reason."""


class KilledExternally(NotReady):
    """The engine was killed by another process, so the load may succeed at another attempt."""


async def wait_until_ready(
    process: EngineProcess,
    socket: Path,
    path: str,
    body: Mapping[str, Any],
    expected: re.Pattern[bytes] = FINISHED,
) -> None:
    """Wait until an engine has served its first request. There is no timeout.

    Args:
        process: the started engine.
        socket: path of its socket.
        path: route of the request.
        body: JSON body of the request.
        expected: pattern in a valid response.

    Raises:
        NotReady: the engine ended, or sent another response.
    """
    exit_task = asyncio.create_task(process.wait())
    probe_task = asyncio.create_task(
        _try_request(socket, path, json.dumps(body).encode(), expected)
    )
    try:
        await asyncio.wait({exit_task, probe_task}, return_when=asyncio.FIRST_COMPLETED)
        problem = probe_task.result() if probe_task.done() else None
        if problem is not None:
            # A crashing process breaks its connection before its end is noticed.
            await asyncio.wait({exit_task}, timeout=EXIT_TIMEOUT)
        if exit_task.done():
            status = exit_task.result()
            error_type = NotReady if caused_itself(status) else KilledExternally
            raise error_type(f"it exited with status {status}")
        if problem is not None:
            raise NotReady(problem)
    finally:
        exit_task.cancel()
        probe_task.cancel()


async def wait_until_listening(process: EngineProcess, socket: Path) -> None:
    """Wait until an engine has responded to a health check or ended, up to LIVENESS_TIMEOUT.

    Args:
        process: the engine, which was ready before.
        socket: path of its socket.
    """
    exit_task = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(LIVENESS_TIMEOUT):
            while not exit_task.done() and not await healthy(socket):
                await asyncio.wait({exit_task}, timeout=INTERVAL)
    except TimeoutError:
        return
    finally:
        exit_task.cancel()


async def healthy(socket: Path, timeout: float = 2.0) -> bool:
    """Whether the engine responds to GET /health with 200 within `timeout` seconds."""
    return (await _get(socket, "/health", timeout)).startswith(b"HTTP/1.1 200")


async def fetch_metrics(socket: Path, timeout: float) -> bytes | None:
    """Return the body of GET /metrics, None without a response within `timeout` seconds."""
    response = await _get(socket, "/metrics", timeout)
    return response.partition(b"\r\n\r\n")[2] if response else None


async def wait_for_token(
    socket: Path, path: str, body: Mapping[str, Any], expected: re.Pattern[bytes], timeout: float
) -> bool:
    """Whether a running engine generates a token within `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            return await _try_request(socket, path, json.dumps(body).encode(), expected) is None
    except (OSError, TimeoutError):
        return False


async def _try_request(
    socket: Path, path: str, data: bytes, expected: re.Pattern[bytes]
) -> str | None:
    """Send a request; return None after a valid response, else the problem."""
    while not await healthy(socket):
        await asyncio.sleep(INTERVAL)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    try:
        response = await _exchange(socket, head.encode() + data)
    except OSError as error:
        return f"its first response broke off: {error}"
    valid = response.startswith(b"HTTP/1.1 200") and b'"error"' not in response
    if valid and expected.search(response):
        return None
    text = response[-300:].decode(errors="replace").strip()
    return f"its first response was: {text or 'empty'}"


async def _get(socket: Path, path: str, timeout: float) -> bytes:
    """Send a GET request; return the response, empty if it failed or timed out."""
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
