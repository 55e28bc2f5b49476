"""The bodies of requests: read within MAX_BODY_MB and BODY_TIMEOUT, or left alone in good order."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from flask import g, request
from werkzeug.exceptions import BadRequest

from vllm_obtain import cooperative
from vllm_obtain.api.services import services
from vllm_obtain.errors import BodyTimeout, InvalidRequest

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]

# Bytes a second with which a body earns more time than BODY_TIMEOUT.
SLOWEST = 16 * 1024
# What is read at once at first, and at most: where a body comes in chunks, those that are tiny take
# thousands of steps which nobody interrupts.
_STEP = 64 * 1024
_LONGEST_STEP = 1024 * 1024
# A body that nobody reads is let in to its end up to this size, so that the connection stays.
_SMALL = 64 * 1024
# Seconds for which the rest of one that was refused is thrown away: a client that is sending
# would not get to see why otherwise.
LINGER = 3.0

_START = "vllm_obtain.start_response"
_SOCKETS = ("gunicorn.socket", "werkzeug.socket")


class Ending:
    """Lets an answer say that the connection ends: gunicorn does not heed its headers there.

    Args:
        app: what answers.
    """

    def __init__(self, app: Wsgi) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer, as WSGI asks it."""
        environ[_START] = start_response
        return self._app(environ, start_response)


def end_connection(environ: dict[str, Any]) -> None:
    """Have a connection closed after the answer, and the client told so."""
    answer: Any = getattr(environ.get(_START), "__self__", None)
    if hasattr(answer, "force_close"):
        answer.force_close()


def read_body() -> bytes:
    """Read the body of the request that is being handled.

    Raises:
        RequestEntityTooLarge: it is larger than MAX_BODY_MB; it is not read any further.
        BodyTimeout: it came too slowly.
        InvalidRequest: it broke off.
    """
    stream, length = request.stream, request.content_length
    g.body_read = False
    patience = _Patience(request.environ, services().settings.body_timeout)
    try:
        return _read(stream, length, patience)
    except BadRequest:  # werkzeug's for a stream that fails
        raise _broken(patience) from None
    finally:
        patience.end()


def _read(stream: Any, length: int | None, patience: _Patience) -> bytes:
    pieces: list[bytes] = []
    step = _STEP
    while length is None or patience.got < length:
        piece = stream.read(step if length is None else min(step, length - patience.got))
        if not piece:
            break
        pieces.append(piece)
        patience.got += len(piece)
        if patience.got >= _LONGEST_STEP:
            # Where bytes are there already, nothing else would let others go on.
            cooperative.give_way()
        if length is not None:
            step = min(_LONGEST_STEP, max(_STEP, patience.got))
    if patience.over or (length is not None and patience.got < length):
        raise _broken(patience)
    g.body_read = True
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _broken(patience: _Patience) -> BodyTimeout | InvalidRequest:
    if patience.over:
        return BodyTimeout(
            f"The body came too slowly: {patience.got:,} bytes in {patience.passed:.0f} seconds "
            "(BODY_TIMEOUT). Send it faster, or send less."
        )
    return InvalidRequest("The body broke off before its end. Send it whole.")


class _Patience:
    """How long a body may take: BODY_TIMEOUT, and more for one that comes steadily.

    Args:
        environ: the request's, which has the connection.
        seconds: BODY_TIMEOUT.
    """

    def __init__(self, environ: dict[str, Any], seconds: float) -> None:
        self.got = 0
        self.over = False
        self._ended = False
        self._client = next((environ[key] for key in _SOCKETS if key in environ), None)
        self._seconds = seconds
        self._began = time.monotonic()
        self._alarm = cooperative.alarm(seconds, self._ring)

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def end(self) -> None:
        """Stop the clock."""
        self._ended = True
        self._alarm.stop()

    def _ring(self) -> None:
        if self._ended:
            return
        left = self._seconds + self.got / SLOWEST - self.passed
        self._alarm.stop()
        if left > 0:
            self._alarm = cooperative.alarm(left, self._ring)
            return
        self.over = True
        if self._client is not None:
            cooperative.stop_reading(self._client)


def is_left(environ: dict[str, Any]) -> bool:
    """Whether a body, or part of one, was left unread that is too much to be thrown away unseen.

    gunicorn would do that in steps so small that everybody waits.
    """
    read = g.get("body_read")
    if read is not None:
        return not read
    if "HTTP_TRANSFER_ENCODING" in environ:
        return True
    length: str = environ.get("CONTENT_LENGTH") or "0"
    short = length.isascii() and length.isdigit() and len(length) < 10
    return not (short and int(length) <= _SMALL)


def linger(client: Any) -> None:
    """Throw away what a client still sends, for a moment, after it was told that it is over."""
    scratch = bytearray(_STEP)
    deadline = time.monotonic() + LINGER
    with contextlib.suppress(OSError, ValueError):
        client.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            client.settimeout(left)
            if not client.recv_into(scratch):
                return
            cooperative.give_way()
