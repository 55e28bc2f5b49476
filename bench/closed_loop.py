"""Non-streaming requests in a closed loop over keep-alive connections."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field

from bench.client import Address

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


@dataclass
class ClosedLoop:
    """Results of a closed loop.

    Args:
        seconds: duration.
        latencies: seconds from each request to the end of its response, for status 200.
        failures: error messages of the other requests.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Successful responses per second."""
        return len(self.latencies) / self.seconds


class _Connection(asyncio.Protocol):
    """One connection, which sends one request after the other until the deadline."""

    def __init__(self, request: bytes, deadline: float, result: ClosedLoop) -> None:
        self._request = request
        self._deadline = deadline
        self._result = result
        self._start = 0.0
        self._buffer = b""
        self._length = -1
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._length < 0:
            self._length = _response_length(self._buffer)
        if 0 <= self._length <= len(self._buffer):
            self._record()
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._buffer or exc is not None:
            self._result.failures.append(str(exc or "the connection was closed during a response"))
        if not self.closed.done():
            self.closed.set_result(None)

    def _record(self) -> None:
        if self._buffer.startswith(b"HTTP/1.1 200"):
            self._result.latencies.append(time.monotonic() - self._start)
        else:
            self._result.failures.append(self._buffer[:200].decode(errors="replace"))
        self._buffer, self._length = b"", -1

    def _send(self) -> None:
        self._start = time.monotonic()
        if self._start >= self._deadline:
            self._transport.close()
        else:
            self._transport.write(self._request)


async def closed_loop(
    address: Address, request: bytes, connections: int, seconds: float
) -> ClosedLoop:
    """Send requests for some time and wait for the last responses.

    Args:
        address: address of the server.
        request: bytes of one request; its response must have a Content-Length.
        connections: number of concurrent requests.
        seconds: duration.
    """
    result = ClosedLoop()
    start = time.monotonic()

    async def one() -> None:
        while time.monotonic() < start + seconds and len(result.failures) < 100:
            connection = _Connection(request, start + seconds, result)
            try:
                await address.connect(connection)
                await connection.closed
            except OSError as error:
                result.failures.append(str(error))

    await asyncio.gather(*(one() for _ in range(connections)))
    result.seconds = time.monotonic() - start
    return result


def _response_length(start: bytes) -> int:
    """Length of a response in bytes, -1 while its headers are incomplete."""
    head, found, _ = start.partition(b"\r\n\r\n")
    if not found:
        return -1
    length = _LENGTH.search(head)
    return len(head) + 4 + (int(length.group(1)) if length else 0)
