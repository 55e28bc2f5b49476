"""HTTP client that times each chunk of one streamed chat completion."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec

from vllm_obtain.benchmark.stats import RequestResult

CHAT = "/v1/chat/completions"
_READ_SIZE = 65_536
# Bytes of an error response that are read.
_MAX_ERROR_SIZE = 65_536
# Servers differ in the name of the reasoning field.
_TEXT_FIELDS = ("content", "reasoning", "reasoning_content")


@dataclass(frozen=True)
class Target:
    """The service to measure.

    Args:
        url: base URL.
        key: API key; empty for none.
    """

    url: str
    key: str = ""

    def request(self, body: dict[str, Any]) -> bytes:
        """Serialize a chat completion request, head and body."""
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
        parts = urlsplit(self.url)
        secure = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if secure else 80)
        return await asyncio.open_connection(parts.hostname, port, ssl=secure)


async def send_chat(target: Target, body: dict[str, Any], result: RequestResult) -> None:
    """Send a chat completion request and record the response in `result`.

    Args:
        target: the service.
        body: request body.
        result: filled in while the response streams, so that it is usable after a cancellation.
            A failure is recorded in its `error`.
    """
    result.began = time.monotonic()
    parser = _ResponseParser(result)
    try:
        reader, writer = await target.connect()
        try:
            writer.write(target.request(body))
            while not parser.complete and (data := await reader.read(_READ_SIZE)):
                parser.feed(data)
        finally:
            writer.close()
        result.error = result.error or parser.error()
    except asyncio.CancelledError:
        result.cut = True
        raise
    except (OSError, httptools.HttpParserError, msgspec.DecodeError) as error:
        result.error = result.error or f"{type(error).__name__}: {error}".rstrip(": ")
    finally:
        result.ended = time.monotonic()


class _ResponseParser:
    """Parses a response. httptools calls the methods that begin with `on_`."""

    def __init__(self, result: RequestResult) -> None:
        self._result = result
        self._parser = httptools.HttpResponseParser(self)
        self._incomplete_event = b""
        self._error_body = b""
        self._now = 0.0
        self._stream_ended = False
        self.complete = False

    def feed(self, data: bytes) -> None:
        self._now = time.monotonic()
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        """Parse a part of the body. Events may be split at any byte."""
        if self._parser.get_status_code() != 200:
            self._error_body = (self._error_body + data)[:_MAX_ERROR_SIZE]
            return
        *events, self._incomplete_event = (self._incomplete_event + data).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                self._parse_event(event[6:].strip())

    def on_message_complete(self) -> None:
        """Record the regular end of the response."""
        self.complete = True

    def error(self) -> str:
        """Describe the failure; empty if the request succeeded."""
        status = self._parser.get_status_code()
        if status == 200:
            return "" if self._stream_ended else "the stream ended without [DONE]"
        if not status:
            return "the connection was closed without a response"
        try:
            return f"{status}: {msgspec.json.decode(self._error_body)['error']['message']}"
        except (msgspec.DecodeError, KeyError, TypeError):
            return f"status {status}"

    def _parse_event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._stream_ended = True
            return
        event = msgspec.json.decode(data)
        result = self._result
        if "error" in event:
            result.error = str(event["error"].get("message", "error event in the stream"))
        for choice in event.get("choices", ()):
            if any(choice.get("delta", {}).get(name) for name in _TEXT_FIELDS):
                self._record_chunk()
        if usage := event.get("usage"):
            result.tokens = usage["completion_tokens"]
            result.prompt_tokens = usage["prompt_tokens"]

    def _record_chunk(self) -> None:
        result = self._result
        if result.first is None:
            result.first = self._now
        else:
            result.gaps.append(self._now - result.last)
        result.last = self._now
        result.tokens += 1
