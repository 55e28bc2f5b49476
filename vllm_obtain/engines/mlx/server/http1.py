"""The minimal HTTP that the gateway needs on a Unix socket: one request per connection."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from .errors import ErrorResponse

MAX_HEAD = 64 * 1024
MAX_BODY = 1 << 30
HEAD_TIMEOUT = 30.0
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
)
STREAM_END = b"0\r\n\r\n"
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}


async def read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    """Read a request.

    Returns:
        Method, path and body.

    Raises:
        ErrorResponse: the request is malformed.
        OSError, EOFError, TimeoutError: the client disconnected, or sent nothing in time.
    """
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_TIMEOUT)
    except asyncio.LimitOverrunError:
        raise ErrorResponse("The head of the request is too long.") from None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, *_ = [*first.split(" "), "", ""]
    headers = {name.strip().lower(): value for name, _, value in (x.partition(":") for x in lines)}
    length = headers.get("content-length", "0").strip()
    if not (length.isascii() and length.isdigit()) or int(length) > MAX_BODY:
        raise ErrorResponse("The request has no valid Content-Length.")
    return method, path.partition("?")[0], await reader.readexactly(int(length))


def read_json(body: bytes) -> dict[str, Any]:
    """Parse a body.

    Raises:
        ErrorResponse: it is not a JSON object.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ErrorResponse(f"The body is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ErrorResponse("The body must be a JSON object.")
    return value


def response(status: int, body: Any) -> bytes:
    """Encode a non-streamed response."""
    data = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + data


def chunk(data: bytes) -> bytes:
    """Encode a chunk of a streamed response."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def sse(payload: Any) -> bytes:
    """Encode one server-sent event; JSON has no raw line breaks."""
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"
