"""A stub engine: the HTTP API of llama.cpp's server without a model, as fast as possible.

    python stub_server.py SOCKET

Standard library only. `max_tokens` is the number of chunks. The text of the last message is the
mode: `pace 0.5` waits 0.5 seconds between chunks. `step 0.5` does the same for all streams at the
same moments, like an engine with one batch. Any other text sends chunks as fast as the client reads
them, one write per chunk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import sys
import time
from typing import Any

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CLOSE = re.compile(rb"(?i)\r\nconnection: *close")
_COMMON = (
    '"created":1700000000,"id":"chatcmpl-0123456789abcdefghijklmnopqrstuv",'
    '"model":"stub","system_fingerprint":"b1","object":"chat.completion.chunk"'
)


def chunk(choices: str, more: str = "") -> bytes:
    """Encode one event as a chunk of the transfer encoding."""
    event = f'data: {{"choices":[{choices}],{_COMMON}{more}}}\n\n'.encode()
    return b"%x\r\n%s\r\n" % (len(event), event)


def usage(tokens: int) -> str:
    """Encode the usage of a response."""
    return (
        f'"usage":{{"completion_tokens":{tokens},"prompt_tokens":10,'
        f'"total_tokens":{tokens + 10},"prompt_tokens_details":{{"cached_tokens":0}}}}'
    )


_ROLE = '{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}'
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunk(_ROLE, ',"prompt_progress":{"total":10,"cache":0,"processed":10,"time_ms":1}')
    + chunk(_ROLE)
)
_TOKEN = chunk('{"finish_reason":null,"index":0,"delta":{"content":" word"}}')
_HEALTH = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def _last(tokens: int) -> bytes:
    finish = chunk('{"finish_reason":"length","index":0,"delta":{}}')
    return finish + chunk("", "," + usage(tokens)) + _END


def plain(tokens: int) -> bytes:
    """Build a response without streaming."""
    text = " word" * tokens
    body = (
        f'{{"choices":[{{"finish_reason":"length","index":0,"message":'
        f'{{"role":"assistant","content":"{text}"}}}}],{_COMMON},{usage(tokens)}}}'
    ).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def _last_message(prompt: str) -> str:
    """Extract the text of the last message from a ChatML prompt."""
    return prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._close = False
        self._remaining = self._tokens = 0
        self._period = 0.0
        self._aligned = False
        self._writable = True
        self._pending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Respond once the request is complete."""
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length.group(1)) if length else 0
        if not found or len(body) < size:
            return
        self._buffer = body[size:]
        self._close = _CLOSE.search(head) is not None
        if head.startswith(b"GET"):
            self._respond(_HEALTH)
        else:
            self._generate(json.loads(body[:size]))

    def pause_writing(self) -> None:
        """Pause while the client does not read."""
        self._writable = False

    def resume_writing(self) -> None:
        """Resume the stream."""
        self._writable = True
        self._schedule()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Stop generating."""
        self._remaining = 0
        self._writable = False

    def _generate(self, body: dict[str, Any]) -> None:
        self._tokens = body["max_tokens"]
        if not body.get("stream"):
            self._respond(plain(self._tokens))
            return
        mode, _, period = _last_message(str(body.get("prompt", ""))).partition(" ")
        self._period = float(period) if mode in ("pace", "step") else 0.0
        self._aligned = mode == "step"
        self._remaining = self._tokens
        self._transport.write(_HEAD)
        self._emit()

    def _emit(self) -> None:
        self._pending = False
        if not self._remaining or not (self._writable or self._period):
            return
        self._remaining -= 1
        self._transport.write(_TOKEN)
        if not self._remaining:
            self._respond(_last(self._tokens))
        elif self._period:
            asyncio.get_running_loop().call_later(self._next_step(), self._emit)
        else:
            self._schedule()

    def _schedule(self) -> None:
        # One chunk per iteration of the event loop, so all streams advance together, as in a batch.
        if self._remaining and not self._period and not self._pending:
            self._pending = True
            asyncio.get_running_loop().call_soon(self._emit)

    def _next_step(self) -> float:
        return self._period - time.monotonic() % self._period if self._aligned else self._period

    def _respond(self, data: bytes) -> None:
        self._transport.write(data)
        if self._close:
            self._transport.close()


async def serve(path: str) -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_unix_server(Connection, path, backlog=4096)
    await stop.wait()
    server.close()


def main() -> None:
    """Serve on the socket of the command line."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    asyncio.run(serve(sys.argv[1]))
    os._exit(0)


if __name__ == "__main__":
    main()
