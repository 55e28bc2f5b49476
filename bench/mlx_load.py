"""The load client of the MLX benchmark: text completions, streamed, each on its own connection.

Notes when text arrives: the first one, and the longest pause between two. Reads both servers'
ways of writing JSON.
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
    """A request was not answered to its end; the message has what came instead."""


@dataclass
class Answer:
    """What came of one request; times are of the monotonic clock.

    Args:
        began: just before connecting.
        texts: when text arrived.
        tokens: completion tokens by the answer's own usage.
        ended: when the connection was over.
    """

    began: float
    texts: list[float] = field(default_factory=list)
    tokens: int = 0
    ended: float = 0.0

    @property
    def wait(self) -> float:
        """Seconds to the first text."""
        return (self.texts[0] if self.texts else self.ended) - self.began

    def longest_gap(self, since: float, until: float) -> float:
        """The longest time between two texts, of those that touch an interval."""
        pairs = zip(self.texts, self.texts[1:], strict=False)
        return max((b - a for a, b in pairs if b >= since and a <= until), default=0.0)


@dataclass(frozen=True)
class Wave:
    """Requests that were sent at once."""

    answers: list[Answer]

    @property
    def tokens_per_second(self) -> float:
        """Throughput over the whole wave, prompts included."""
        began = min(answer.began for answer in self.answers)
        ended = max(answer.ended for answer in self.answers)
        return sum(answer.tokens for answer in self.answers) / (ended - began)


def body(text: str, tokens: int, **rules: Any) -> dict[str, Any]:
    """Write a request, greedy unless the rules say otherwise."""
    return {
        "prompt": text,
        "max_tokens": tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **rules,
    }


async def ask(
    address: Address, request: dict[str, Any], speaks: asyncio.Event | None = None
) -> Answer:
    """Send one request and read its answer.

    Args:
        address: whom to ask.
        request: the body.
        speaks: set when the first text arrives.

    Raises:
        Failed: the answer is an error, or breaks off.
    """
    answer, tail = Answer(time.monotonic()), b""
    reader, writer = await _connect(address)
    try:
        writer.write(_encode(request))
        while data := await reader.read(1 << 18):
            if _TEXT.search(data):
                answer.texts.append(time.monotonic())
                if speaks is not None:
                    speaks.set()
            tail = (tail + data)[-_TAIL_BYTES:]
        answer.ended = time.monotonic()
    finally:
        writer.close()
    found = _COMPLETION.findall(tail)
    if b"[DONE]" not in tail or not found:
        raise Failed(tail[-500:].decode(errors="replace"))
    answer.tokens = int(found[-1])
    return answer


async def wave(address: Address, requests: Sequence[dict[str, Any]]) -> Wave:
    """Send requests at once and wait for all of them."""
    return Wave(list(await asyncio.gather(*(ask(address, request) for request in requests))))


async def intrude(
    address: Address, running: Sequence[dict[str, Any]], long: dict[str, Any]
) -> tuple[float, float]:
    """Have a long prompt arrive among streams that run.

    Returns:
        The longest pause of any running stream while it was read, and what it waited itself.
    """
    speaking = [asyncio.Event() for _ in running]
    pairs = zip(running, speaking, strict=True)
    streams = [asyncio.create_task(ask(address, body, event)) for body, event in pairs]
    await asyncio.gather(*(event.wait() for event in speaking))
    late = await ask(address, long)
    answers = await asyncio.gather(*streams)
    until = late.began + late.wait
    return max(answer.longest_gap(late.began, until) for answer in answers), late.wait


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.path:
        return await asyncio.open_unix_connection(address.path)
    return await asyncio.open_connection("127.0.0.1", address.port)


def _encode(request: dict[str, Any]) -> bytes:
    data = json.dumps(request).encode()
    head = (
        f"POST {_ROUTE} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data
