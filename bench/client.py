"""The load client: streaming requests, one connection each, with as little CPU time as possible.

Decoding every event would take more CPU time than the gateway that is measured. This client
searches for the first text, counts events, and decodes only the last bytes of a stream.
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
# Text in a chunk of a chat, or of a completion, which engines return.
_TEXT = re.compile(rb'"(?:content|text)":"[^"]')
_COMPLETION = re.compile(rb'"completion_tokens":(\d+)')
# Chunk borders may fall anywhere in an event; nginx puts them where its buffers end.
_CHUNK_BORDER = re.compile(rb"\r\n[0-9a-f]+\r\n")
# Enough for the finish, usage and end events of both sides.
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Address:
    """Address of a server: path of a Unix socket, or a port on the loopback interface."""

    path: str = ""
    port: int = 0

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Connect a protocol."""
        loop = asyncio.get_running_loop()
        if self.path:
            await loop.create_unix_connection(lambda: protocol, self.path)
        else:
            await loop.create_connection(lambda: protocol, sock=await self._connected(loop))

    async def _connected(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        # On the loopback interface the kernel connects at once, but reports "in progress". Waiting
        # for that in the event loop takes 0.26 ms, which would count as overhead of the gateway,
        # because the engine's Unix socket has no such delay.
        address = ("127.0.0.1", self.port)
        sock = socket.socket()
        sock.setblocking(False)
        try:
            if sock.connect_ex(address) and sock.connect_ex(address) not in (0, errno.EISCONN):
                await loop.sock_connect(sock, address)
        except OSError:
            sock.close()
            raise
        return sock


@dataclass
class Outcome:
    """Result of one streaming request; times are of the monotonic clock.

    Args:
        start: time just before connecting.
        first: time of the first text, None if there was none.
        end: time when the connection was closed.
        events: number of server-sent events, including `[DONE]`.
        tokens: completion tokens, from the usage of the response.
        done: whether `[DONE]` was received.
        head: status line and headers of the response.
    """

    start: float
    first: float | None = None
    end: float = 0.0
    events: int = 0
    tokens: int = 0
    done: bool = False
    head: bytes = b""
    error: str = ""

    @property
    def status(self) -> int:
        """HTTP status, 0 without a response."""
        return int(self.head[9:12]) if len(self.head) > 12 else 0

    @property
    def ok(self) -> bool:
        """Whether the response is complete."""
        return self.status == 200 and self.done and not self.error

    @property
    def ttft(self) -> float:
        """Time to first token in seconds."""
        return (self.first or self.end) - self.start


def post(body: dict[str, Any], close: bool = True, path: str = CHAT) -> bytes:
    """Write an HTTP request.

    Args:
        body: sent as JSON.
        close: whether the server closes the connection after the response.
        path: the route.
    """
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Connection: {'close' if close else 'keep-alive'}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class Stream(asyncio.Protocol):
    """One request and its streaming response.

    Args:
        request: bytes to send, with `Connection: close`.
    """

    def __init__(self, request: bytes) -> None:
        self.outcome = Outcome(time.monotonic())
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._head = bytearray()
        self._tail = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count events, and note the first text."""
        outcome = self.outcome
        if outcome.first is None:
            self._find_text(data)
        joined = self._tail[-len(_EVENT) + 1 :] + data
        outcome.events += joined.count(_EVENT)
        self._tail = data[-_TAIL_BYTES:] if len(data) > _TAIL_BYTES else self._tail + data
        if len(self._tail) > 2 * _TAIL_BYTES:
            self._tail = self._tail[-_TAIL_BYTES:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Read usage and status from the end of the response."""
        outcome = self.outcome
        outcome.end = time.monotonic()
        outcome.head = outcome.head or bytes(self._head)
        tail = _CHUNK_BORDER.sub(b"", self._tail)
        outcome.done = b"data: [DONE]" in tail
        if found := _COMPLETION.findall(tail):
            outcome.tokens = int(found[-1])
        if exc is not None:
            outcome.error = str(exc) or type(exc).__name__
        if not self.closed.done():
            self.closed.set_result(None)

    def abort(self) -> None:
        """Close the connection immediately."""
        if self._transport is not None:
            self._transport.abort()

    def _find_text(self, data: bytes) -> None:
        self._head += data
        if _TEXT.search(self._head):
            self.outcome.first = time.monotonic()
            self.outcome.head = bytes(self._head.partition(b"\r\n\r\n")[0])
            self._head.clear()


async def stream(address: Address, request: bytes) -> Outcome:
    """Send one request and read the whole response."""
    protocol = Stream(request)
    try:
        await address.connect(protocol)
        await protocol.closed
    except OSError as error:
        protocol.outcome.end = time.monotonic()
        protocol.outcome.error = str(error) or type(error).__name__
    finally:
        protocol.abort()
    return protocol.outcome


@dataclass
class Wave:
    """Results of concurrent requests."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Time from the first connection to the last end."""
        return max(o.end for o in self.outcomes) - min(o.start for o in self.outcomes)

    @property
    def tokens_per_second(self) -> float:
        """Throughput, from the usage of the responses."""
        return sum(o.tokens for o in self.outcomes) / self.seconds

    @property
    def failures(self) -> list[str]:
        """Error messages, one per failed request."""
        return [o.error or f"status {o.status}, done={o.done}" for o in self.outcomes if not o.ok]


async def wave(address: Address, requests: Sequence[bytes], stagger: float = 0.0) -> Wave:
    """Send concurrent requests, each on its own connection, and wait for all responses.

    Args:
        address: address of the server.
        requests: requests to send.
        stagger: seconds between the starts of two requests.
    """

    async def one(number: int, request: bytes) -> Outcome:
        await asyncio.sleep(number * stagger)
        return await stream(address, request)

    tasks = (one(number, request) for number, request in enumerate(requests))
    return Wave(list(await asyncio.gather(*tasks)))
