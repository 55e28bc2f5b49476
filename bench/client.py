"""The load client: streamed requests, one connection each, read as cheaply as can be.

A client that decodes every event would cost more than the gateway it measures. This one looks
for the first text, counts events, and decodes only the last bytes of a stream.
"""

from __future__ import annotations

import asyncio
import errno
import json
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CHAT = "/v1/chat/completions"
_EVENT = b"data: "
# Of a chat's chunk, or of a text completion's, as engines are asked for.
_TEXT = re.compile(rb'"(?:content|text)":"[^"]')
_COMPLETION = re.compile(rb'"completion_tokens":(\d+)')
# Chunk borders may fall anywhere in an event; nginx puts them where its buffers end.
_BORDER = re.compile(rb"\r\n[0-9a-f]+\r\n")
# Enough for the finish, usage and end events of either side.
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Address:
    """Where to connect: a Unix socket's path, or a port on the loopback interface."""

    path: str = ""
    port: int = 0

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Open a connection for a protocol."""
        loop = asyncio.get_running_loop()
        if self.path:
            await loop.create_unix_connection(lambda: protocol, self.path)
        else:
            await loop.create_connection(lambda: protocol, sock=await self._connected(loop))

    async def _connected(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        # On the loopback interface the kernel connects at once, but says "in progress": to wait for
        # that in the event loop takes 0.26 ms, which would be counted as the gateway's, since the
        # bare engine's Unix socket has no such thing.
        address = ("127.0.0.1", self.port)
        made = socket.socket()
        made.setblocking(False)
        try:
            if made.connect_ex(address) and made.connect_ex(address) not in (0, errno.EISCONN):
                await loop.sock_connect(made, address)
        except OSError:
            made.close()
            raise
        return made


@dataclass
class Outcome:
    """What became of one streamed request; times are of the monotonic clock.

    Args:
        began: just before connecting.
        first: when the first text was read, None if none came.
        ended: when the connection was over.
        events: server-sent events of any kind, `[DONE]` included.
        tokens: completion tokens by the answer's own usage.
        done: whether `[DONE]` came.
        head: the answer's status line and headers.
    """

    began: float
    first: float | None = None
    ended: float = 0.0
    events: int = 0
    tokens: int = 0
    done: bool = False
    head: bytes = b""
    error: str = ""

    @property
    def status(self) -> int:
        """The HTTP status, 0 when no answer came."""
        return int(self.head[9:12]) if len(self.head) > 12 else 0

    @property
    def ok(self) -> bool:
        """Whether the whole answer came."""
        return self.status == 200 and self.done and not self.error

    @property
    def wait(self) -> float:
        """Seconds to the first text."""
        return (self.first or self.ended) - self.began


def post(body: dict[str, Any], close: bool = True, path: str = CHAT) -> bytes:
    """Write a request.

    Args:
        body: what to send as JSON.
        close: whether the server shall close the connection after its answer.
        path: the route.
    """
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Connection: {'close' if close else 'keep-alive'}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class Stream(asyncio.Protocol):
    """One request and its streamed answer.

    Args:
        request: the bytes to send; they must ask for the connection's end.
    """

    def __init__(self, request: bytes) -> None:
        self.outcome = Outcome(time.monotonic())
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._start = bytearray()
        self._tail = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Look at what came."""
        outcome = self.outcome
        if outcome.first is None:
            self._look_for_text(data)
        seam = self._tail[-len(_EVENT) + 1 :] + data
        outcome.events += seam.count(_EVENT)
        self._tail = data[-_TAIL_BYTES:] if len(data) > _TAIL_BYTES else self._tail + data
        if len(self._tail) > 2 * _TAIL_BYTES:
            self._tail = self._tail[-_TAIL_BYTES:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        outcome = self.outcome
        outcome.ended = time.monotonic()
        outcome.head = outcome.head or bytes(self._start)
        tail = _BORDER.sub(b"", self._tail)
        outcome.done = b"data: [DONE]" in tail
        if found := _COMPLETION.findall(tail):
            outcome.tokens = int(found[-1])
        if exc is not None:
            outcome.error = str(exc) or type(exc).__name__
        if not self.over.done():
            self.over.set_result(None)

    def abort(self) -> None:
        """Close the connection, whatever has come."""
        if self._transport is not None:
            self._transport.abort()

    def _look_for_text(self, data: bytes) -> None:
        self._start += data
        if _TEXT.search(self._start):
            self.outcome.first = time.monotonic()
            self.outcome.head = bytes(self._start.partition(b"\r\n\r\n")[0])
            self._start.clear()


async def stream(address: Address, request: bytes) -> Outcome:
    """Send one request and read its answer to the end."""
    protocol = Stream(request)
    try:
        await address.connect(protocol)
        await protocol.over
    except OSError as error:
        protocol.outcome.ended = time.monotonic()
        protocol.outcome.error = str(error) or type(error).__name__
    finally:
        protocol.abort()
    return protocol.outcome


@dataclass
class Wave:
    """Requests that were sent at once, and what became of them."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From the first connection to the last end."""
        return max(o.ended for o in self.outcomes) - min(o.began for o in self.outcomes)

    @property
    def tokens_per_second(self) -> float:
        """Throughput, by the answers' own usage."""
        return sum(o.tokens for o in self.outcomes) / self.seconds

    @property
    def failures(self) -> list[str]:
        """What went wrong, one line per request that did."""
        return [o.error or f"status {o.status}, done={o.done}" for o in self.outcomes if not o.ok]


async def wave(address: Address, requests: Sequence[bytes], stagger: float = 0.0) -> Wave:
    """Send requests, each on its own connection, and wait for all of them.

    Args:
        address: whom to ask.
        requests: what to send.
        stagger: seconds between two of them.
    """

    async def one(number: int, request: bytes) -> Outcome:
        await asyncio.sleep(number * stagger)
        return await stream(address, request)

    began = (one(number, request) for number, request in enumerate(requests))
    return Wave(list(await asyncio.gather(*began)))
