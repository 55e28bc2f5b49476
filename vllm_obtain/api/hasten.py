"""What makes a gateway worker quick, and keeps clients that do not read from holding it up."""

from __future__ import annotations

import errno
import functools
import gc
from typing import Any

from vllm_obtain.cooperative import serve_first
from vllm_obtain.log import get_logger

log = get_logger("vllm_obtain.gateway")

# Objects made, less those freed, before the collector looks at the young ones. A request makes
# some hundred and leaves no cycles; at Python's own 700 a thousand streams are looked through
# over and over.
YOUNG_OBJECTS = 50_000
# What a client has to take within SEND_TIMEOUT, in bytes.
PIECE = 65_536


def calm_collector() -> None:
    """Leave what the start made out of all collections, and collect seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 50, 100)


def hasten(client: Any, seconds: float) -> None:
    """Read a client's requests first, and send it small pieces with a single system call.

    Args:
        client: as accepted, gevent's plain socket or its TLS one; another one stays as it is.
        seconds: in which it has to take PIECE bytes; one that does not has gone.
    """
    plain, quick, encrypted, patient = _kinds(seconds)
    if type(client) is plain:
        client.__class__ = quick
        serve_first(client)
    elif type(client) is encrypted:
        client.__class__ = patient


@functools.cache
def _kinds(seconds: float) -> tuple[type[Any], type[Any], type[Any], type[Any]]:
    from gevent.socket import socket
    from gevent.ssl import SSLSocket

    class PatientSocket(SSLSocket):  # type: ignore[misc]  # gevent ships no types
        """gevent's TLS socket waits for ever for a client that does not read."""

        __slots__ = ()

        def sendall(self, data: Any, flags: int = 0) -> None:
            """Send everything; waits a while when the client reads slowly."""
            _send(self, super().sendall, memoryview(data), flags, seconds)

    class QuickSocket(socket):  # type: ignore[misc]  # as above
        """gevent's socket asks for the size of its buffer before it sends anything."""

        __slots__ = ()

        def sendall(self, data: Any, flags: int = 0) -> None:
            """Send everything; waits a while when the client reads slowly."""
            try:
                sent = self._sock.send(data, flags)
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                _send(self, super().sendall, memoryview(data)[sent:], flags, seconds)

    return socket, QuickSocket, SSLSocket, PatientSocket


def _send(client: Any, send: Any, data: memoryview, flags: int, seconds: float) -> None:
    """Send what a client may be slow to take.

    Raises:
        BrokenPipeError: it took less than it had to.
    """
    before = client.gettimeout()
    client.settimeout(seconds)
    try:
        for start in range(0, len(data), PIECE):
            send(data[start : start + PIECE], flags)
    except TimeoutError:
        log.warning("a client does not read its answer: it is given up", seconds=seconds)
        raise BrokenPipeError(errno.EPIPE, "the client does not read") from None
    finally:
        client.settimeout(before)
