"""Cancels requests whose client disconnects, or on shutdown.

While a request is handled, its socket is not read, so a disconnect would surface only at the next
write, which may be minutes later. A watcher of the socket detects it immediately.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from vllm_obtain.errors import ClientDisconnected, ServiceError
from vllm_obtain.gevent_compat import is_cooperative, peer_closed

# Keys of the client's socket in the WSGI environment of gunicorn and werkzeug.
_SOCKET_KEYS = ("gunicorn.socket", "werkzeug.socket")
_POLL_SECONDS = 0.25


class Interruptible(Protocol):
    """A blocking operation that can be interrupted."""

    def interrupt(self) -> None:
        """Interrupt the operation."""


class CancelToken:
    """Records whether a request is cancelled, and interrupts its blocking operations."""

    def __init__(self) -> None:
        self.is_cancelled = False
        self._operations: list[Interruptible] = []
        self._error: ServiceError | None = None

    @property
    def cause(self) -> ServiceError | ClientDisconnected:
        """The exception to raise after cancellation."""
        return self._error or ClientDisconnected()

    @contextlib.contextmanager
    def attach(self, operation: Interruptible) -> Iterator[None]:
        """Interrupt `operation` on cancellation.

        Raises:
            ClientDisconnected: the client has disconnected.
            ServiceError: the request was cancelled for another reason.
        """
        if self.is_cancelled:
            raise self.cause
        self._operations.append(operation)
        try:
            yield
        finally:
            self._operations.remove(operation)

    def fire(self, error: ServiceError | None = None) -> None:
        """Cancel the request.

        Args:
            error: the error for the client; None if the client disconnected.
        """
        self.is_cancelled, self._error = True, error
        for operation in list(self._operations):
            operation.interrupt()


class InFlightRequests:
    """The requests in flight of this process; a shutdown can cancel them."""

    def __init__(self) -> None:
        self._requests: set[CancelToken] = set()
        self._watch_type = _EventWatch if is_cooperative() else _ThreadWatch

    @contextlib.contextmanager
    def track(self, environ: Mapping[str, Any], cancel: CancelToken) -> Iterator[None]:
        """Track a request, and fire `cancel` when its client closes its connection."""
        client = next((environ[key] for key in _SOCKET_KEYS if key in environ), None)
        watch = self._watch_type(client, cancel) if client is not None else None
        self._requests.add(cancel)
        try:
            yield
        finally:
            self._requests.discard(cancel)
            if watch is not None:
                watch.stop()

    def end(self, error: ServiceError) -> None:
        """Cancel all requests with an error for their clients."""
        for cancel in list(self._requests):
            if not cancel.is_cancelled:
                cancel.fire(error)


class _EventWatch:
    """Watches through gevent's event loop, without a greenlet."""

    def __init__(self, client: Any, cancel: CancelToken) -> None:
        import gevent

        self._client = client
        self._cancel = cancel
        self._watcher = gevent.get_hub().loop.io(client.fileno(), 1)
        self._watcher.start(self._check)

    def stop(self) -> None:
        self._watcher.stop()
        self._watcher.close()

    def _check(self) -> None:
        disconnected = peer_closed(self._client)
        if disconnected is False:
            return
        self._watcher.stop()
        if disconnected:
            self._cancel.fire()


class _ThreadWatch:
    """Polls in a thread, for the development server."""

    def __init__(self, client: Any, cancel: CancelToken) -> None:
        self._client = client
        self._cancel = cancel
        self._stopped = threading.Event()
        threading.Thread(target=self._check, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _check(self) -> None:
        while not self._stopped.is_set():
            try:
                readable, _, _ = select.select([self._client], [], [], _POLL_SECONDS)
            except (OSError, ValueError):
                return
            if not readable:
                continue
            disconnected = peer_closed(self._client)
            if disconnected and not self._stopped.is_set():
                self._cancel.fire()
            if disconnected is not False:
                return
