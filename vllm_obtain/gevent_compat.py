"""Functions that differ between processes with gevent's monkey patching and those without."""

from __future__ import annotations

import _socket
import contextlib
import functools
import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

# TLS record types; length of an encrypted alert, without and with the record header (RFC 8446).
_ALERT, _DATA = 21, 23
_ALERT_LENGTH = 19
_RECORD = 5 + _ALERT_LENGTH

# Host names that are resolved at the same time under gevent.
_MAX_LOOKUPS = 32

# libev priorities range from -2 to 2.
_HIGH_PRIORITY, _NORMAL_PRIORITY = 2, 0


def is_cooperative() -> bool:
    """Whether this process runs on gevent's loop. Does not import gevent, which takes 10 MB."""
    return socket.socket.__module__.startswith("gevent")


def run_in_threadpool(work: Callable[[], T]) -> T:
    """Run blocking work in a thread under gevent, so that other greenlets continue.

    Returns:
        The result of the work. Its exceptions are raised here.
    """
    if not is_cooperative():
        return work()
    from gevent import get_hub

    result: T = get_hub().threadpool.apply(work)
    return result


def look_up(host: str, port: int) -> list[tuple[Any, ...]]:
    """Resolve a host name for a stream socket; returns what `socket.getaddrinfo` does.

    Under gevent, threads of their own resolve names: a slow name server would take up the threads
    of gevent's pool, which other work needs.

    Raises:
        OSError: the name cannot be resolved.
    """
    if not is_cooperative():
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    found: list[tuple[Any, ...]] = _lookup_pool().apply(
        _socket.getaddrinfo, (host, port, 0, socket.SOCK_STREAM)
    )
    return found


@functools.cache
def _lookup_pool() -> Any:
    from gevent.threadpool import ThreadPool

    return ThreadPool(_MAX_LOOKUPS)


def yield_to_others() -> None:
    """Let other greenlets run. Does nothing with threads."""
    if is_cooperative():
        from gevent import sleep

        sleep(0)


def stop_reading(connection: Any) -> None:
    """Shut down the receiving side of a connection; responses can still be sent."""
    # The method of a TLS socket would drop its encryption.
    raw = getattr(connection, "_sock", connection)
    with contextlib.suppress(OSError):
        _socket.socket.shutdown(raw, socket.SHUT_RD)


def set_read_priority(connection: socket.socket, first: bool = True) -> None:
    """Handle data on a connection before data on other connections.

    Otherwise a new request waits until a chunk of every stream has been handled. Has no effect
    without gevent.

    Args:
        connection: a connection that no greenlet waits for.
        first: False restores the normal priority.
    """
    watcher = getattr(connection, "_read_event", None)
    if watcher is not None:
        watcher.priority = _HIGH_PRIORITY if first else _NORMAL_PRIORITY


def wait_for_data(connection: socket.socket) -> Callable[[], object] | None:
    """Return a function that waits until data can be read, which saves a failing system call.

    Args:
        connection: the connection.

    Returns:
        None without gevent, where a read waits itself. The function raises a TimeoutError after the
        connection's timeout.
    """
    watcher = getattr(connection, "_read_event", None)
    if watcher is None:
        return None
    wait: Callable[..., object] = connection._wait  # type: ignore[attr-defined]
    return functools.partial(wait, watcher)


def send_all(connection: socket.socket, data: bytes) -> None:
    """Send data, usually with one system call: `sendall` of gevent queries the buffer size first.

    Args:
        connection: a connected stream socket.
        data: what to send.
    """
    sent = connection.send(data)
    if sent < len(data):
        connection.sendall(memoryview(data)[sent:])


def peer_closed(connection: Any) -> bool | None:
    """Check whether the peer has closed the connection. Does not block or consume data.

    Returns:
        True if it is closed, False if it is open, None if unknown because data (a pipelined
        request) is waiting.
    """
    # A socket with a timeout blocks despite the flags. gevent wraps one without a timeout.
    raw = getattr(connection, "_sock", connection)
    try:
        # gevent's closed socket raises an OSError here.
        encrypted = hasattr(connection, "_sslobj")
        data = _peek_without_blocking(raw)
        return None if data and not (encrypted and _is_alert(data)) else True
    except (BlockingIOError, InterruptedError):
        return False
    except (OSError, ValueError):
        return True


def _peek_without_blocking(connection: socket.socket) -> bytes:
    timeout = connection.gettimeout()
    if timeout == 0:
        return _peek(connection)
    connection.settimeout(0)
    try:
        return _peek(connection)
    finally:
        connection.settimeout(timeout)


def _peek(connection: socket.socket) -> bytes:
    # The method of a TLS socket does not accept flags.
    return _socket.socket.recv(connection, _RECORD + 1, socket.MSG_PEEK)


def _is_alert(data: bytes) -> bool:
    """Whether the next TLS record is an alert, which closes the connection.

    In TLS 1.3 an alert has the type of application data; its length identifies it.
    """
    kind, length = data[0], int.from_bytes(data[3:5], "big")
    return kind == _ALERT or (kind == _DATA and length == _ALERT_LENGTH and len(data) == _RECORD)


class Timer(Protocol):
    """A scheduled call."""

    def stop(self) -> None:
        """Cancel the call. Does nothing if it was already made."""


def timer(seconds: float, ring: Callable[[], None]) -> Timer:
    """Schedule a call.

    Args:
        seconds: delay; values below 0 count as 0.
        ring: callback. It must not block, because gevent's event loop calls it.
    """
    return (_Timer if is_cooperative() else _Thread)(max(0.0, seconds), ring)


class _Timer:
    """Timer of gevent's event loop; needs no greenlet."""

    def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
        import gevent

        self._timer: Any = gevent.get_hub().loop.timer(seconds)
        self._timer.start(ring)

    def stop(self) -> None:
        self._timer.stop()
        self._timer.close()


class _Thread:
    """Timer thread for the development server."""

    def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
        self._timer = threading.Timer(seconds, ring)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        self._timer.cancel()
