"""What makes a gateway worker quick. Touches no behaviour; a worker without it is only slower."""

from __future__ import annotations

import functools
import gc
from typing import Any

from vllm_obtain.cooperative import serve_first

# Objects made, less those freed, before the collector looks at the young ones. A request makes
# some hundred and leaves no cycles; at Python's own 700 a thousand streams are looked through
# over and over.
YOUNG_OBJECTS = 50_000


def calm_collector() -> None:
    """Leave what the start made out of all collections, and collect seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 50, 100)


def hasten(client: Any) -> None:
    """Read a client's requests first, and send it small pieces with a single system call.

    Args:
        client: as accepted; one that is not gevent's plain socket, such as a TLS one, stays as
            it is.
    """
    plain, quick = _kinds()
    if type(client) is plain:
        client.__class__ = quick
        serve_first(client)


@functools.cache
def _kinds() -> tuple[type[Any], type[Any]]:
    from gevent.socket import socket

    class QuickSocket(socket):  # type: ignore[misc]  # gevent ships no types
        """gevent's socket asks for the size of its buffer before it sends anything."""

        __slots__ = ()

        def sendall(self, data: Any, flags: int = 0) -> None:
            """Send everything; waits when the client reads slowly."""
            try:
                sent = self._sock.send(data, flags)
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                super().sendall(memoryview(data)[sent:], flags)

    return socket, QuickSocket
