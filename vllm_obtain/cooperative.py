"""What is done otherwise where gevent has patched threads and sockets, and where it has not."""

from __future__ import annotations

import _socket
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

# Kinds of TLS records; the length of an encrypted alert, and that with the record's head.
_ALERT, _DATA = 21, 23
_SHORTEST = 19
_RECORD = 5 + _SHORTEST

# Of libev's five levels, -2 to 2.
_FIRST, _IN_TURN = 2, 0


def is_cooperative() -> bool:
    """Whether this process runs on gevent's loop; asking gevent itself would import it, 10 MB."""
    return socket.socket.__module__.startswith("gevent")


def aside(work: Callable[[], T]) -> T:
    """Do what takes some time in a thread of its own where greenlets would wait for it meanwhile.

    Returns:
        What it came to; its errors are raised here.
    """
    if not is_cooperative():
        return work()
    from gevent import get_hub

    made: T = get_hub().threadpool.apply(work)
    return made


def give_way() -> None:
    """Let others go on that are ready to; where there are threads, they do so by themselves."""
    if is_cooperative():
        from gevent import sleep

        sleep(0)


def stop_reading(connection: Any) -> None:
    """Have whoever reads from a connection find its end; answers can still be written to it."""
    # Not the object's own method: that of a TLS socket forgets its encryption.
    raw = getattr(connection, "_sock", connection)
    with contextlib.suppress(OSError):
        _socket.socket.shutdown(raw, socket.SHUT_RD)


def serve_first(connection: socket.socket, first: bool = True) -> None:
    """Have what comes on a connection handled before what came on others at the same time.

    When many streams advance in one step of the engine, a request that begins would otherwise
    wait for a piece of each. Without an event loop of gevent's there is no such order.

    Args:
        connection: one that nobody waits for at the moment.
        first: False to give that up again.
    """
    watcher = getattr(connection, "_read_event", None)
    if watcher is not None:
        watcher.priority = _FIRST if first else _IN_TURN


def wait_for_data(connection: socket.socket) -> None:
    """Wait until a read finds something, where one that does not costs a failed system call.

    Args:
        connection: one without a timeout.
    """
    watcher = getattr(connection, "_read_event", None)
    if watcher is not None:
        connection._wait(watcher)  # type: ignore[attr-defined]


def has_ended(connection: Any) -> bool | None:
    """Look, without waiting and without taking anything, whether the other end is gone.

    Returns:
        True when it is, False when it is there, None when it has sent something (a pipelined
        request), so that the connection can tell no longer.
    """
    # A socket with a timeout waits, whatever the flags say; below gevent's there is one with none.
    raw = getattr(connection, "_sock", connection)
    encrypted = hasattr(connection, "_sslobj")
    try:
        seen = _peeked(raw)
        return None if seen and not (encrypted and _is_farewell(seen)) else True
    except (BlockingIOError, InterruptedError):
        return False
    except (OSError, ValueError):
        return True


def _peeked(connection: socket.socket) -> bytes:
    timeout = connection.gettimeout()
    if timeout == 0:
        return _peek(connection)
    connection.settimeout(0)
    try:
        return _peek(connection)
    finally:
        connection.settimeout(timeout)


def _peek(connection: socket.socket) -> bytes:
    # Not the object's own method: that of a TLS socket refuses flags.
    return _socket.socket.recv(connection, _RECORD + 1, socket.MSG_PEEK)


def _is_farewell(seen: bytes) -> bool:
    """Whether what comes next on a TLS connection is an alert: its client closes it.

    Since TLS 1.3 an alert looks like data, of the length that only two bytes have.
    """
    kind, length = seen[0], int.from_bytes(seen[3:5], "big")
    return kind == _ALERT or (kind == _DATA and length == _SHORTEST and len(seen) == _RECORD)


class Alarm(Protocol):
    """A call that is still to come."""

    def stop(self) -> None:
        """Call it off; harmless when it has come already."""


def alarm(seconds: float, ring: Callable[[], None]) -> Alarm:
    """Have something called once.

    Args:
        seconds: from now; none are left when it is not above 0.
        ring: must not block: under gevent the event loop itself calls it.
    """
    return (_Timer if is_cooperative() else _Thread)(max(0.0, seconds), ring)


class _Timer:
    """A timer of gevent's own loop: no greenlet, next to no cost."""

    def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
        import gevent

        self._timer: Any = gevent.get_hub().loop.timer(seconds)
        self._timer.start(ring)

    def stop(self) -> None:
        self._timer.stop()
        self._timer.close()


class _Thread:
    """A thread that waits, for the development server."""

    def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
        self._timer = threading.Timer(seconds, ring)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        self._timer.cancel()
