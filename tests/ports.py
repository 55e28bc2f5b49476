"""Ports for services under test, reserved among all test processes of this machine."""

from __future__ import annotations

import os
import socket

# Below the ports that systems hand out by themselves (from 32768 on Linux, 49152 on macOS), so that
# no connection of anybody takes one between its reservation and the start of its service.
_FIRST, _COUNT = 20_000, 12_000
_reserved: list[socket.socket] = []


def free_port() -> int:
    """Reserve a TCP port that is free, for as long as this test process lives.

    The reservation is the UDP port of the same number, which no service here uses: it is held by
    the kernel, so two test processes never get the same port, and it ends with the process.
    """
    start = os.getpid() * 97 + len(_reserved)
    for number in range(_COUNT):
        port = _FIRST + (start + number) % _COUNT
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            held.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.bind(("", port))
        except OSError:
            held.close()
        else:
            _reserved.append(held)
            return port
    raise RuntimeError(f"no port is free from {_FIRST} to {_FIRST + _COUNT - 1}")
