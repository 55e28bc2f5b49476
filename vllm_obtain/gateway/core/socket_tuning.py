"""Socket fast path, send timeout and garbage collection of gevent workers."""

from __future__ import annotations

import errno
import functools
import gc
from typing import Any

from vllm_obtain.gevent_compat import set_read_priority
from vllm_obtain.logs.setup import get_logger

log = get_logger("vllm_obtain.gateway")

# Threshold of the garbage collector's youngest generation. A request allocates some hundred
# objects and leaves no cycles. With Python's default of 700, the collector would scan the objects
# of a thousand streams again and again.
YOUNG_OBJECTS = 50_000
# Bytes that a client must receive within SEND_TIMEOUT.
PIECE = 65_536


def tune_garbage_collector() -> None:
    """Exclude objects from the start from garbage collection, and collect rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 50, 100)


def tune_worker(client: Any, seconds: float) -> None:
    """Prioritize reads of a client socket, and send small data with a single system call.

    Args:
        client: accepted socket, plain or TLS; types other than gevent's are not changed.
        seconds: time in which the client must receive PIECE bytes; then the connection is closed.
    """
    plain, quick, encrypted, patient = _socket_types(seconds)
    if type(client) is plain:
        client.__class__ = quick
        set_read_priority(client)
    elif type(client) is encrypted:
        client.__class__ = patient


@functools.cache
def _socket_types(seconds: float) -> tuple[type[Any], type[Any], type[Any], type[Any]]:
    from gevent.socket import socket
    from gevent.ssl import SSLSocket

    class PatientSocket(SSLSocket):  # type: ignore[misc]  # gevent ships no types
        """TLS socket with a send timeout, which gevent's does not have."""

        __slots__ = ()

        def sendall(self, data: Any, flags: int = 0) -> None:
            """Send everything; waits a while when the client reads slowly."""
            _send(self, super().sendall, memoryview(data), flags, seconds)

    class QuickSocket(socket):  # type: ignore[misc]  # as above
        """Socket that sends without gevent's query of the buffer size, with a send timeout."""

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
    """Send data with a timeout for each PIECE bytes.

    Raises:
        BrokenPipeError: the client did not receive the data in time.
    """
    previous_timeout = client.gettimeout()
    client.settimeout(seconds)
    try:
        for start in range(0, len(data), PIECE):
            send(data[start : start + PIECE], flags)
    except TimeoutError:
        log.warning("slow client disconnected", seconds=seconds)
        raise BrokenPipeError(errno.EPIPE, "the client does not read") from None
    finally:
        client.settimeout(previous_timeout)
