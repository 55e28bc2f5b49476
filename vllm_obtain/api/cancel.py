"""Noticing that a client went away, or that time is up, and ending what is done for it.

While a request is worked on, nobody reads its socket, so the end of it would show only at the
next write: minutes later for a plain request. A watch on the socket sees it at once.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from vllm_obtain.cooperative import has_ended, is_cooperative
from vllm_obtain.errors import ClientGone, ServiceError

# Where the two servers put the client's connection.
_SOCKET_KEYS = ("gunicorn.socket", "werkzeug.socket")
_POLL_SECONDS = 0.25


class Interruptible(Protocol):
    """Something whose wait can be ended from outside."""

    def interrupt(self) -> None:
        """End the wait."""


class Cancel:
    """Whether somebody still wants the answer, and what to interrupt when nobody does."""

    def __init__(self) -> None:
        self.gone = False
        self._waits: list[Interruptible] = []
        self._told: ServiceError | None = None

    @property
    def cause(self) -> ServiceError | ClientGone:
        """What to raise once it has fired."""
        return self._told or ClientGone()

    @contextlib.contextmanager
    def attached(self, wait: Interruptible) -> Iterator[None]:
        """Have `wait` interrupted when the client goes.

        Raises:
            ClientGone: it is gone already.
            ServiceError: what the client is to be told instead of its answer.
        """
        if self.gone:
            raise self.cause
        self._waits.append(wait)
        try:
            yield
        finally:
            self._waits.remove(wait)

    def fire(self, told: ServiceError | None = None) -> None:
        """End what is done for the answer.

        Args:
            told: why, for a client that is still there; None when nobody is.
        """
        self.gone, self._told = True, told
        for wait in list(self._waits):
            wait.interrupt()


class Working:
    """What is worked on in this process, for an end that does not wait for it."""

    def __init__(self) -> None:
        self._requests: set[Cancel] = set()

    @contextlib.contextmanager
    def on(self, environ: Mapping[str, Any], cancel: Cancel) -> Iterator[None]:
        """Note a request, and watch its client meanwhile; see `watched`."""
        self._requests.add(cancel)
        try:
            with watched(environ, cancel):
                yield
        finally:
            self._requests.discard(cancel)

    def end(self, told: ServiceError) -> None:
        """Break all of it off; its clients are told why."""
        for cancel in list(self._requests):
            if not cancel.gone:
                cancel.fire(told)


@contextlib.contextmanager
def watched(environ: Mapping[str, Any], cancel: Cancel) -> Iterator[None]:
    """Fire `cancel` when the client of a request closes its connection."""
    client = next((environ[key] for key in _SOCKET_KEYS if key in environ), None)
    if client is None:
        yield
        return
    watch = _EventWatch(client, cancel) if is_cooperative() else _ThreadWatch(client, cancel)
    try:
        yield
    finally:
        watch.stop()


class _EventWatch:
    """A watcher of gevent's own loop: no greenlet, next to no cost."""

    def __init__(self, client: Any, cancel: Cancel) -> None:
        import gevent

        self._client = client
        self._cancel = cancel
        self._watcher = gevent.get_hub().loop.io(client.fileno(), 1)
        self._watcher.start(self._look)

    def stop(self) -> None:
        self._watcher.stop()
        self._watcher.close()

    def _look(self) -> None:
        went = has_ended(self._client)
        if went is False:
            return
        self._watcher.stop()
        if went:
            self._cancel.fire()


class _ThreadWatch:
    """A thread that polls, for the development server."""

    def __init__(self, client: Any, cancel: Cancel) -> None:
        self._client = client
        self._cancel = cancel
        self._over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _look(self) -> None:
        while not self._over.is_set():
            try:
                readable, _, _ = select.select([self._client], [], [], _POLL_SECONDS)
            except (OSError, ValueError):
                return
            if not readable:
                continue
            went = has_ended(self._client)
            if went and not self._over.is_set():
                self._cancel.fire()
            if went is not False:
                return
