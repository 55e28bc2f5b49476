"""A call at a later time, in whatever kind of process this is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol


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
    # Only a patched process has a hub; importing gevent elsewhere costs 10 MB.
    cooperative = socket.socket.__module__.startswith("gevent")
    return (_Timer if cooperative else _Thread)(max(0.0, seconds), ring)


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
