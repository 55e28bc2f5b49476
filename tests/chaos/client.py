"""One request on a connection of its own, and what became of it, byte by byte.

It retries as OpenAI's clients do by default: a connection that broke before the first byte of the
answer, twice. A status that says error is not retried here: there shall be none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools

from tests.chaos.requests import CheckedRequest

RETRIES = 2
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
PATIENCE = 120.0
READ_BYTES = 65536

# What may become of a request.
ANSWERED, LEFT, CUT, LOST, WRONG, SILENT = "answered", "left", "cut", "lost", "wrong", "silent"


@dataclass
class Attempt:
    """What one try brought; times are of the monotonic clock."""

    began: float = field(default_factory=time.monotonic)
    first_byte: float | None = None
    first_token: float | None = None
    ended: float = 0.0
    status: int = 0
    cached: bool = False
    body: bytes = b""
    whole: bool = False
    said: str = ""
    reason: str | None = None
    done: bool = False
    error: str = ""
    broke: str = ""


@dataclass
class Result:
    """What became of a request.

    Args:
        ask: what was asked.
        fate: one of the words above.
        why: more about it, when it is not as it should be.
        tries: how often it was asked.
        seen: the last try.
    """

    ask: CheckedRequest
    fate: str
    why: str
    tries: int
    seen: Attempt
    began: float


async def ask(
    port: int, asked: CheckedRequest, told: Callable[[CheckedRequest, Attempt], None]
) -> Result:
    """Ask, with the patience of a client library.

    Args:
        port: the service's.
        asked: the request.
        told: called at each piece of text.
    """
    began = time.monotonic()
    for tried in range(1, RETRIES + 2):
        attempt = await _try(port, asked, told)
        if attempt.broke in ("", LEFT) or attempt.first_byte is not None or tried > RETRIES:
            break
        pause = min(FIRST_PAUSE * 2 ** (tried - 1), LONGEST_PAUSE)
        await asyncio.sleep(pause * (1 - 0.25 * random.random()))  # noqa: S311 - no secret
    fate, why = judge(asked, attempt)
    return Result(asked, fate, why, tried, attempt, began)


async def _try(
    port: int, asked: CheckedRequest, told: Callable[[CheckedRequest, Attempt], None]
) -> Attempt:
    exchange = _Exchange(asked, told)
    attempt = exchange.seen
    try:
        async with asyncio.timeout(asked.leaves_after or PATIENCE):
            await exchange.run(port)
    except TimeoutError:
        attempt.broke = LEFT if asked.leaves_after else f"no answer within {PATIENCE:g} s"
    except (OSError, httptools.HttpParserError) as error:
        attempt.broke = f"{type(error).__name__}: {error}"
    attempt.ended = time.monotonic()
    return attempt


class _Exchange:
    """Sends one request and reads what comes."""

    def __init__(
        self, asked: CheckedRequest, told: Callable[[CheckedRequest, Attempt], None]
    ) -> None:
        self.seen = Attempt()
        self._asked = asked
        self._told = told
        self._rest = b""
        self._parser = httptools.HttpResponseParser(self)

    async def run(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            data = json.dumps(self._asked.body).encode()
            head = f"POST {self._asked.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data)
            while not self.seen.whole:
                if not (piece := await reader.read(READ_BYTES)):
                    raise ConnectionResetError("the connection ended before the answer did")
                self.seen.first_byte = self.seen.first_byte or time.monotonic()
                self._parser.feed_data(piece)
                self.seen.status = self._parser.get_status_code()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-cache":
            self.seen.cached = value == b"hit"

    def on_body(self, data: bytes) -> None:
        self.seen.body += data
        if self._asked.streamed and self._parser.get_status_code() == 200:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"data: "):
                    self._event(line[6:])

    def on_message_complete(self) -> None:
        attempt = self.seen
        attempt.whole = True
        attempt.status = self._parser.get_status_code()
        if attempt.status == 200 and not self._asked.streamed:
            answer = json.loads(attempt.body)
            self._choice(answer["choices"][0], "message")
            attempt.done = True

    def _event(self, data: bytes) -> None:
        if data.strip() == b"[DONE]":
            self.seen.done = True
            return
        chunk = json.loads(data)
        if "error" in chunk:
            self.seen.error = chunk["error"]["message"]
        for choice in chunk.get("choices", ()):
            self._choice(choice, "delta")

    def _choice(self, choice: dict[str, Any], name: str) -> None:
        part = choice.get(name) or {}
        text = choice.get("text") or part.get("content") or ""
        calls = part.get("tool_calls") or ()
        for call in calls:
            text += call["function"].get("arguments") or ""
        self.seen.reason = choice.get("finish_reason") or self.seen.reason
        self.seen.said += text
        if text or calls:
            self.seen.first_token = self.seen.first_token or time.monotonic()
            self._told(self._asked, self.seen)


def judge(asked: CheckedRequest, seen: Attempt) -> tuple[str, str]:
    """Say what became of a request, by its last try."""
    if seen.broke == LEFT:
        return LEFT, ""
    if seen.status not in (0, 200):
        return LOST, f"status {seen.status}: {seen.body[:300].decode(errors='replace')}"
    if seen.broke:
        return (LOST, seen.broke) if seen.first_byte is None else (CUT, seen.broke)
    if seen.error:
        return (CUT if seen.first_token else LOST), f"event: {seen.error}"
    if not seen.done or seen.reason is None:
        return SILENT, f"ended after {seen.said!r} without a word"
    if not asked.right(seen.said):
        return WRONG, f"{seen.reason}: {seen.said!r}"
    return ANSWERED, ""
