"""What the old and the new master say to each other: lines over a pair of sockets.

It has to be understood by a version before and a version after this one: so it is a few words.
The end of the connection before READY is the end of an attempt.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time

import msgspec

from vllm_obtain.cooperative import has_ended
from vllm_obtain.supervisor import runtime

# The variable that has the `Predecessor` of a master that takes over.
SUCCEEDS = "VLLM_OBTAIN_SUCCEEDS"
# Says that the process whose end a service manager looks at is above this one: `shell`.
SHELL = "VLLM_OBTAIN_SHELL"
# The new one: make room in memory, please; I serve; I cannot, and why.
HOLD, READY, FAILED = "hold", "ready", "failed"
# The old one: there is room now.
CLEAR = "clear"
# Where inherited sockets begin, as systemd counts.
FIRST = 3


class Predecessor(msgspec.Struct, frozen=True):
    """What a new master is told of the one before.

    Args:
        version: of its supervisor (`runtime.version`); the same one can be shared.
        place: its runtime folder, one of `runtime.PLACES`.
        models: what it has loaded.
        beside: whether there is memory to load all that a second time.
        line: the descriptor of the connection to it.
    """

    version: str
    place: str
    models: list[str]
    beside: bool
    line: int

    @property
    def free_place(self) -> str:
        """Where it is not."""
        return next(place for place in runtime.PLACES if place != self.place)


def predecessor() -> Predecessor | None:
    """Who this process takes over from, None when it starts by itself."""
    told = os.environ.get(SUCCEEDS)
    return msgspec.json.decode(told, type=Predecessor) if told else None


class Line:
    """One end of the connection.

    Args:
        end: a connected socket.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._heard = b""

    def hear(self, timeout: float) -> str | None:
        """Wait for a line.

        Returns:
            None when the other end is gone.

        Raises:
            TimeoutError: nothing came in time.
        """
        end = time.monotonic() + timeout
        while b"\n" not in self._heard:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                raise TimeoutError
            try:
                received = self._socket.recv(4096)
            except OSError:
                return None
            if not received:
                return None
            self._heard += received
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode(errors="replace")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def listens(descriptor: int) -> bool:
    """Whether somebody is at the other end."""
    with socket.socket(fileno=os.dup(descriptor)) as end:
        return has_ended(end) is False


def say(descriptor: int, *words: str) -> None:
    """Send a line, unless nobody is there any more."""
    line = " ".join(" ".join(words).split())
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{line}\n".encode())
