"""Reads request bodies within the limits of size, time and memory, and discards unread ones."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from flask import current_app, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from vllm_obtain import gevent_compat
from vllm_obtain.errors import BodyTimeout, InvalidRequest, Overloaded
from vllm_obtain.gateway.core.services import current_services
from vllm_obtain.gateway.middleware import auth

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]

# Bytes per second; a body that arrives faster has no time limit.
SLOWEST = 16 * 1024
# Initial, minimum and maximum size of a read. Large reads of a body in tiny chunks would block
# other requests for thousands of steps.
_STEP = 64 * 1024
_SHORTEST_STEP = 4096
_LONGEST_STEP = 256 * 1024
# Bodies up to this size are not counted in BODY_MEMORY_MB: WORKER_CONNECTIONS limits them.
_UNCOUNTED = _STEP
# Seconds after which a client may send a body again that found no memory.
_RETRY = 2
# Unread bodies up to this size are discarded by gunicorn, which keeps the connection open.
_SMALL = 64 * 1024
# Seconds for which the rest of a rejected body is read and discarded, because a client that is
# still sending would not see the response otherwise.
LINGER = 3.0

_START = "vllm_obtain.start_response"
_SOCKETS = ("gunicorn.socket", "werkzeug.socket")


class ConnectionCloser:
    """Stores `start_response` for `end_connection`, since gunicorn ignores a `Connection` header.

    Args:
        app: the wrapped WSGI app.
    """

    def __init__(self, app: Wsgi) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ[_START] = start_response
        return self._app(environ, start_response)


def end_connection(environ: dict[str, Any]) -> None:
    """Close the connection after the response, with a `Connection: close` header."""
    response: Any = getattr(environ.get(_START), "__self__", None)
    if hasattr(response, "force_close"):
        response.force_close()


def read_body() -> bytes:
    """Read the body of the current request.

    Raises:
        RequestEntityTooLarge: the body is larger than MAX_BODY_MB; reading stops.
        Overloaded: the bodies in flight use the memory that this caller may use; reading stops.
        BodyTimeout: the body arrived too slowly.
        InvalidRequest: the body is incomplete, or its chunks are malformed.
    """
    stream, length = request.stream, request.content_length
    g.body_read = False
    timer = _BodyTimer(request.environ, current_app.config["BODY_TIMEOUT"])
    try:
        return _read(stream, length, timer)
    except (RequestEntityTooLarge, Overloaded):
        raise
    except Exception:  # each server has errors of its own for chunks that are malformed
        raise _read_error(timer) from None
    finally:
        timer.stop()


def _read(stream: Any, length: int | None, timer: _BodyTimer) -> bytes:
    pieces: list[bytes] = []
    step = min(_STEP, timer.longest_step)
    while length is None or timer.received < length:
        piece = stream.read(step if length is None else min(step, length - timer.received))
        if not piece:
            break
        pieces.append(piece)
        timer.add(len(piece))
        if timer.received > _UNCOUNTED:
            _hold(len(piece))
        if timer.received >= _LONGEST_STEP:
            # Reads of buffered bytes do not yield to other greenlets.
            gevent_compat.yield_to_others()
        if length is not None:
            step = min(timer.longest_step, max(step, timer.received))
    if timer.expired or (length is not None and timer.received < length):
        raise _read_error(timer)
    g.body_read = True
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _hold(size: int) -> None:
    """Count bytes of a body until the response ends.

    Raises:
        Overloaded: the caller may not hold them.
    """
    memory, key = current_services().body_memory, auth.caller()
    caller, held = g.get("body_held") or (key.id if key else request.remote_addr or "", 0)
    if not memory.acquire(caller, size):
        raise Overloaded(
            f"The request bodies in flight use {memory.held >> 20} MiB, and a client may use no "
            f"more than is left of BODY_MEMORY_MB={memory.limit >> 20}. Try again later, send "
            "smaller bodies, or raise the limit.",
            retry_after=_RETRY,
        )
    g.body_held = caller, held + size


def _read_error(timer: _BodyTimer) -> BodyTimeout | InvalidRequest:
    if timer.expired:
        return BodyTimeout(
            f"The body arrived too slowly: {timer.received:,} bytes in {timer.elapsed:.0f} "
            "seconds (BODY_TIMEOUT). Send it faster, or send a smaller body."
        )
    return InvalidRequest("The body is incomplete, or its chunks are malformed. Send it again.")


class _BodyTimer:
    """Limits the time to receive a body to BODY_TIMEOUT, plus a second per SLOWEST bytes received.

    Bytes that arrive fast earn no time for later: a client that stops has BODY_TIMEOUT left.

    Args:
        environ: WSGI environment of the request, which contains the client socket.
        seconds: value of BODY_TIMEOUT.
    """

    def __init__(self, environ: dict[str, Any], seconds: float) -> None:
        self.received = 0
        self.expired = False
        self._stopped = False
        self._client = next((environ[key] for key in _SOCKETS if key in environ), None)
        self._seconds = seconds
        # Bytes. Time is earned by complete reads, so at SLOWEST one has to end within `seconds`.
        self.longest_step = min(_LONGEST_STEP, max(_SHORTEST_STEP, int(SLOWEST * seconds / 2)))
        self._start_time = time.monotonic()
        self._deadline = self._start_time + seconds
        self._timer = gevent_compat.timer(seconds, self._on_timer)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start_time

    def add(self, size: int) -> None:
        """Count received bytes."""
        self.received += size
        latest = time.monotonic() + self._seconds
        self._deadline = min(latest, self._deadline + size / SLOWEST)

    def stop(self) -> None:
        """Stop the timer."""
        self._stopped = True
        self._timer.stop()

    def _on_timer(self) -> None:
        if self._stopped:
            return
        remaining = self._deadline - time.monotonic()
        self._timer.stop()
        if remaining > 0:
            self._timer = gevent_compat.timer(remaining, self._on_timer)
            return
        self.expired = True
        if self._client is not None:
            gevent_compat.stop_reading(self._client)


def is_left(environ: dict[str, Any]) -> bool:
    """Whether a body that was not read is too large for gunicorn to discard.

    gunicorn discards bodies in steps so small that they delay all requests of the worker.
    """
    if "HTTP_TRANSFER_ENCODING" in environ:
        return True
    length: str = environ.get("CONTENT_LENGTH") or "0"
    is_number = length.isascii() and length.isdigit() and len(length) < 10
    return not (is_number and int(length) <= _SMALL)


def linger(client: Any) -> None:
    """Read and discard what a client still sends after the response, for up to LINGER seconds."""
    buffer = bytearray(_STEP)
    deadline = time.monotonic() + LINGER
    with contextlib.suppress(OSError, ValueError):
        client.shutdown(socket.SHUT_WR)
        while (remaining := deadline - time.monotonic()) > 0:
            client.settimeout(remaining)
            if not client.recv_into(buffer):
                return
            gevent_compat.yield_to_others()
