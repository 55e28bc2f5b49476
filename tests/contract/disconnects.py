"""Whom the processes of a service talk to, looked at all the time."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
from collections.abc import Iterator

import psutil

from tests.service import Service

INTERVAL = 0.3


class ObservedConnections:
    """What was seen: `process local remote` of connections that leave the machine, or may."""

    def __init__(self) -> None:
        self.looks = 0
        self.abroad: set[str] = set()

    def look(self, processes: list[psutil.Process]) -> None:
        """Note the connections that there are now; listening to the network counts."""
        self.looks += 1
        for process in processes:
            with contextlib.suppress(psutil.Error):
                for each in process.net_connections("inet"):
                    ends = [end.ip for end in (each.laddr, each.raddr) if end]
                    if not all(map(_is_here, ends)):
                        self.abroad.add(f"{' '.join(process.cmdline())[-80:]} {ends}")


@contextlib.contextmanager
def watch_connections(service: Service) -> Iterator[ObservedConnections]:
    """Look at a service's processes until the block ends."""
    talk, over = ObservedConnections(), threading.Event()

    def watch() -> None:
        while not over.wait(INTERVAL):
            talk.look(service.processes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield talk
    finally:
        over.set()
        thread.join()


def _is_here(address: str) -> bool:
    plain = address.partition("%")[0].removeprefix("::ffff:")
    return ipaddress.ip_address(plain).is_loopback
