"""One streamed chat over a connection of its own, with the time of each piece of text."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec

from vllm_obtain.measuring.figures import Answer

CHAT = "/v1/chat/completions"
_PIECE = 65_536
# Of a body that is no stream: enough for any error's message.
_MOST = 65_536
# As it comes from services of other makers, the reasoning has one of two names.
_TEXTS = ("content", "reasoning", "reasoning_content")


@dataclass(frozen=True)
class Target:
    """Whom to ask.

    Args:
        url: the service's address.
        key: an API key, or empty.
    """

    url: str
    key: str = ""

    def request(self, body: dict[str, Any]) -> bytes:
        """Write a request for a chat."""
        parts = urlsplit(self.url)
        data = msgspec.json.encode(body)
        lines = [
            f"POST {parts.path.rstrip('/')}{CHAT} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Content-Type: application/json",
            "Cache-Control: no-store",
            "Connection: close",
            f"Content-Length: {len(data)}",
        ]
        if self.key:
            lines.append(f"Authorization: Bearer {self.key}")
        return "\r\n".join((*lines, "", "")).encode() + data

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        parts = urlsplit(self.url)
        secure = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if secure else 80)
        return await asyncio.open_connection(parts.hostname, port, ssl=secure)


async def ask(target: Target, body: dict[str, Any], answer: Answer) -> None:
    """Ask, and note what comes in `answer`; a failure is its `error`.

    Args:
        target: whom.
        body: the request.
        answer: is filled in as the stream comes, so that one that is cut off is known as far.
    """
    answer.began = time.monotonic()
    reading = _Reading(answer)
    try:
        reader, writer = await target.connect()
        try:
            writer.write(target.request(body))
            while not reading.over and (data := await reader.read(_PIECE)):
                reading.feed(data)
        finally:
            writer.close()
        answer.error = answer.error or reading.verdict()
    except asyncio.CancelledError:
        answer.cut = True
        raise
    except (OSError, httptools.HttpParserError, msgspec.DecodeError) as error:
        answer.error = answer.error or f"{type(error).__name__}: {error}".rstrip(": ")
    finally:
        answer.ended = time.monotonic()


class _Reading:
    """Reads an answer; the parser calls the methods that begin with `on_`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self._plain = b""
        self._now = 0.0
        self._done = False
        self.over = False

    def feed(self, data: bytes) -> None:
        """Read what came."""
        self._now = time.monotonic()
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        """Read a part of the body, wherever it was cut."""
        if self._parser.get_status_code() != 200:
            self._plain = (self._plain + data)[:_MOST]
            return
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                self._read(event[6:].strip())

    def on_message_complete(self) -> None:
        """Note that the answer has ended as it should."""
        self.over = True

    def verdict(self) -> str:
        """Say why it failed, or nothing."""
        status = self._parser.get_status_code()
        if status == 200:
            return "" if self._done else "the stream broke off"
        if not status:
            return "the connection was closed without an answer"
        try:
            return f"{status}: {msgspec.json.decode(self._plain)['error']['message']}"
        except (msgspec.DecodeError, KeyError, TypeError):
            return f"status {status}"

    def _read(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._done = True
            return
        event = msgspec.json.decode(data)
        answer = self._answer
        if "error" in event:
            answer.error = str(event["error"].get("message", "an error in the stream"))
        for choice in event.get("choices", ()):
            if any(choice.get("delta", {}).get(name) for name in _TEXTS):
                self._piece()
        if usage := event.get("usage"):
            answer.tokens = usage["completion_tokens"]
            answer.prompt_tokens = usage["prompt_tokens"]

    def _piece(self) -> None:
        answer = self._answer
        if answer.first is None:
            answer.first = self._now
        else:
            answer.gaps.append(self._now - answer.last)
        answer.last = self._now
        answer.tokens += 1
