"""An engine's stream, cut anywhere: what comes of it must not depend on where."""

from __future__ import annotations

import contextlib
import json
from random import Random
from typing import Any

from tests.fuzz.core.loop import Case
from tests.fuzz.core.mutate import alter, damage, pick
from vllm_obtain.engines import connection
from vllm_obtain.engines.connection import EngineConnection
from vllm_obtain.errors import ServiceError

_USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
_PROGRESS = {"total": 9, "cache": 2, "processed": 4, "time_ms": 7}
_LOGPROBS = {"tokens": ["é"], "token_logprobs": [-2.5], "text_offset": [0], "top_logprobs": [{}]}
CHUNKS: list[Any] = [
    {"choices": [{"index": 0, "text": "é😀", "finish_reason": None}]},
    {"choices": [{"index": 1, "delta": {"content": "hi"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "text": "x", "logprobs": _LOGPROBS}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": _USAGE},
    {"choices": [{"index": 0, "text": ""}], "prompt_progress": _PROGRESS},
    {"index": 0, "content": "x", "tokens_evaluated": 5, "tokens_predicted": 3, "stop": False},
    {"error": {"message": "bad", "code": 500, "type": "server_error"}},
]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Wire:
    """A socket that has received all it ever will."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    def recv(self, _: int) -> bytes:
        return next(self._pieces, b"")

    def settimeout(self, _: float | None) -> None: ...
    def close(self) -> None: ...
    def shutdown(self, _: int) -> None: ...


class Silent:
    """An alarm that nobody hears."""

    def __init__(self, *_: object) -> None: ...
    def stop(self) -> None: ...


class Relay:
    """The gateway's connection to an engine."""

    name = "relay"

    def make(self, chance: Random) -> Case:
        """An answer's bytes in the pieces in which they come."""
        whole = HEAD
        for _ in range(1 + int(chance.random() * 5)):
            whole += _frame(_event(chance), chance)
        whole += _frame(b"data: [DONE]\n\n", chance) + b"0\r\n\r\n"
        if chance.random() < 0.5:
            whole = damage(whole, chance)
        pieces, at = [], 0
        while at < len(whole):
            size = 1 + int(chance.random() ** 3 * 200)
            pieces.append(whole[at : at + size])
            at += size
        return pieces

    def run(self, case: Case) -> None:
        """Read it as it comes, and all at once."""
        cut, whole = _read([piece for piece in case if piece]), _read([b"".join(case)])
        # Bytes that are no HTTP are met when they are read, and what came before them then too.
        if "EngineConnectionLost" not in whole[1] and cut != whole:
            raise AssertionError(f"{cut} is not {whole}")


def _read(pieces: list[bytes]) -> tuple[list[Any], str]:
    before, connection.timer = connection.timer, Silent  # type: ignore[assignment]
    events: list[Any] = []
    exchange = EngineConnection.__new__(EngineConnection)
    try:
        exchange.__init__("", 0.0)  # type: ignore[misc]
        exchange._socket.close()
        exchange._socket = Wire(pieces)  # type: ignore[assignment]
        exchange._send = lambda *_: None  # type: ignore[method-assign]
        for some in exchange.events("", {}):
            events += some
        return events, ""
    except ServiceError as error:
        return events, f"{type(error).__name__} {error.status} {error.message}"
    finally:
        connection.timer = before
        with contextlib.suppress(OSError):
            exchange.close()


def _event(chance: Random) -> bytes:
    chunk = pick(chance, CHUNKS)
    if chance.random() < 0.4:
        chunk = alter(chunk, chance)
    text = json.dumps(chunk, ensure_ascii=chance.random() < 0.5).encode(errors="replace")
    end = b"\r\n\r\n" if chance.random() < 0.1 else b"\n\n"
    return (b": waiting" + end if chance.random() < 0.1 else b"") + b"data: " + text + end


def _frame(data: bytes, chance: Random) -> bytes:
    if chance.random() < 0.3 and len(data) > 1:
        at = 1 + int(chance.random() * (len(data) - 1))
        return _frame(data[:at], chance) + _frame(data[at:], chance)
    return b"%x\r\n%s\r\n" % (len(data), data)
