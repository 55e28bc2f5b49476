"""Protocol between the old and the new master: lines over a pair of sockets.

Older and newer versions have to understand it, so it has few messages. If the connection is closed
before READY, the upgrade has failed.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time

import msgspec

from vllm_obtain.control import runtime_dir
from vllm_obtain.gevent_compat import peer_closed

# Environment variable with the `Predecessor` of a new master, as JSON.
SUCCEEDS = "VLLM_OBTAIN_SUCCEEDS"
# Environment variable, set if a `pid_holder` runs for the service manager.
SHELL = "VLLM_OBTAIN_SHELL"
# From the new master: unload your models; I serve requests; I cannot start, with the reason.
HOLD, READY, FAILED = "hold", "ready", "failed"
# From the old master: the models are unloaded.
CLEAR = "clear"
# First inherited descriptor in systemd's socket protocol, see sd_listen_fds(3).
FIRST = 3


class Predecessor(msgspec.Struct, frozen=True):
    """The old master, as described to the new one.

    Args:
        version: version of its supervisor (`runtime_dir.version`); an equal one is shared.
        place: its runtime folder, one of `runtime_dir.PLACES`.
        models: names of its loaded models.
        beside: whether the memory suffices to load them a second time.
        line: descriptor of the connection to the old master.
    """

    version: str
    place: str
    models: list[str]
    beside: bool
    line: int

    @property
    def free_place(self) -> str:
        """The runtime folder that the old master does not use."""
        return next(place for place in runtime_dir.PLACES if place != self.place)


def predecessor() -> Predecessor | None:
    """Return the master that this process replaces, or None."""
    text = os.environ.get(SUCCEEDS)
    return msgspec.json.decode(text, type=Predecessor) if text else None


class MasterChannel:
    """One end of the connection between two masters.

    Args:
        connection: a connected socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = b""

    def receive(self, timeout: float) -> str | None:
        """Wait for a line.

        Args:
            timeout: seconds.

        Returns:
            The line, or None if the connection was closed.

        Raises:
            TimeoutError: no line was received in time.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                raise TimeoutError
            try:
                received = self._socket.recv(4096)
            except OSError:
                return None
            if not received:
                return None
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def close(self) -> None:
        self._socket.close()


def is_connected(descriptor: int) -> bool:
    """Whether the other end of a connection is open."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        return peer_closed(connection) is False


def send(descriptor: int, *words: str) -> None:
    """Send a line; a closed connection is ignored."""
    line = " ".join(" ".join(words).split())
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{line}\n".encode())
