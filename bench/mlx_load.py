"""The load client of the MLX benchmark: streaming completions, one connection each.

Records when text arrives, for TTFT and the longest pause. Reads the JSON style of both servers.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.client import Address

_ROUTE = "/v1/completions"
_TEXT = re.compile(rb'"text": ?"[^"]')
_COMPLETION = re.compile(rb'"completion_tokens": ?(\d+)')
_TAIL_BYTES = 4096


class Failed(RuntimeError):
    """A response is incomplete; the message contains its end."""


@dataclass
class Response:
    """Result of one request; times are of the monotonic clock.

    Args:
        start: time just before connecting.
        texts: times when text arrived.
        tokens: completion tokens, from the usage of the response.
        end: time when the connection was closed.
    """

    start: float
    texts: list[float] = field(default_factory=list)
    tokens: int = 0
    end: float = 0.0

    @property
    def ttft(self) -> float:
        """Time to first token in seconds."""
        return (self.texts[0] if self.texts else self.end) - self.start

    def longest_pause(self, since: float, until: float) -> float:
        """Return the longest time between two texts within an interval."""
        pairs = zip(self.texts, self.texts[1:], strict=False)
        return max((b - a for a, b in pairs if b >= since and a <= until), default=0.0)


@dataclass(frozen=True)
class Wave:
    """Results of concurrent requests."""

    responses: list[Response]

    @property
    def tokens_per_second(self) -> float:
        """Throughput of all requests, including prefill."""
        start = min(each.start for each in self.responses)
        end = max(each.end for each in self.responses)
        return sum(each.tokens for each in self.responses) / (end - start)


def body(text: str, tokens: int, **parameters: Any) -> dict[str, Any]:
    """Build a request with greedy sampling unless parameters override it."""
    return {
        "prompt": text,
        "max_tokens": tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **parameters,
    }


async def send(
    address: Address, request: dict[str, Any], first_text: asyncio.Event | None = None
) -> Response:
    """Send one request and read its response.

    Args:
        address: address of the server.
        request: the body.
        first_text: set when the first text arrives.

    Raises:
        Failed: the response is an error or incomplete.
    """
    response, tail = Response(time.monotonic()), b""
    reader, writer = await _connect(address)
    try:
        writer.write(_encode(request))
        while data := await reader.read(1 << 18):
            if _TEXT.search(data):
                response.texts.append(time.monotonic())
                if first_text is not None:
                    first_text.set()
            tail = (tail + data)[-_TAIL_BYTES:]
        response.end = time.monotonic()
    finally:
        writer.close()
    found = _COMPLETION.findall(tail)
    if b"[DONE]" not in tail or not found:
        raise Failed(tail[-500:].decode(errors="replace"))
    response.tokens = int(found[-1])
    return response


async def wave(address: Address, requests: Sequence[dict[str, Any]]) -> Wave:
    """Send concurrent requests and wait for all responses."""
    return Wave(list(await asyncio.gather(*(send(address, request) for request in requests))))


async def send_long_prompt(
    address: Address, streams: Sequence[dict[str, Any]], long: dict[str, Any]
) -> tuple[float, float]:
    """Send a long prompt while streams run.

    Returns:
        The longest pause of any stream during the prefill of the long prompt, and its TTFT.
    """
    first_texts = [asyncio.Event() for _ in streams]
    pairs = zip(streams, first_texts, strict=True)
    tasks = [asyncio.create_task(send(address, body, event)) for body, event in pairs]
    await asyncio.gather(*(event.wait() for event in first_texts))
    response = await send(address, long)
    responses = await asyncio.gather(*tasks)
    until = response.start + response.ttft
    return max(each.longest_pause(response.start, until) for each in responses), response.ttft


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.path:
        return await asyncio.open_unix_connection(address.path)
    return await asyncio.open_connection("127.0.0.1", address.port)


def _encode(request: dict[str, Any]) -> bytes:
    data = json.dumps(request).encode()
    head = (
        f"POST {_ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data
