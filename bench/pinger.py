"""Plain requests in a closed loop over kept connections: the next goes out when one is answered."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field

from bench.client import Address

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


@dataclass
class Pings:
    """What became of many plain requests.

    Args:
        seconds: how long they were sent.
        waits: seconds from a request to its whole answer, of those answered with 200.
        failures: what went wrong otherwise.
    """

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return len(self.waits) / self.seconds


class _Loop(asyncio.Protocol):
    """One connection; asks again until the deadline, and connects again when it was closed."""

    def __init__(self, request: bytes, deadline: float, pings: Pings) -> None:
        self._request = request
        self._deadline = deadline
        self._pings = pings
        self._began = 0.0
        self._buffer = b""
        self._wanted = -1
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._wanted < 0:
            self._wanted = _answer_length(self._buffer)
        if 0 <= self._wanted <= len(self._buffer):
            self._note()
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._buffer or exc is not None:
            self._pings.failures.append(str(exc or "an answer broke off"))
        if not self.over.done():
            self.over.set_result(None)

    def _note(self) -> None:
        if self._buffer.startswith(b"HTTP/1.1 200"):
            self._pings.waits.append(time.monotonic() - self._began)
        else:
            self._pings.failures.append(self._buffer[:200].decode(errors="replace"))
        self._buffer, self._wanted = b"", -1

    def _ask(self) -> None:
        self._began = time.monotonic()
        if self._began >= self._deadline:
            self._transport.close()
        else:
            self._transport.write(self._request)


async def ping(address: Address, request: bytes, connections: int, seconds: float) -> Pings:
    """Ask for some seconds.

    Args:
        address: whom.
        request: the bytes of one request; its answer must have a Content-Length.
        connections: how many requests are out at once.
        seconds: for how long; requests under way then are waited for.
    """
    pings = Pings()
    began = time.monotonic()

    async def one() -> None:
        while time.monotonic() < began + seconds and len(pings.failures) < 100:
            loop = _Loop(request, began + seconds, pings)
            try:
                await address.connect(loop)
                await loop.over
            except OSError as error:
                pings.failures.append(str(error))

    await asyncio.gather(*(one() for _ in range(connections)))
    pings.seconds = time.monotonic() - began
    return pings


def _answer_length(start: bytes) -> int:
    """Bytes of a whole answer, -1 while its head is incomplete."""
    head, found, _ = start.partition(b"\r\n\r\n")
    if not found:
        return -1
    length = _LENGTH.search(head)
    return len(head) + 4 + (int(length.group(1)) if length else 0)
