"""Asks for /health on a clock, each time on a new connection, in a process of its own.

    python -m bench.probe PORT INTERVAL

Runs until its standard input ends, then prints a JSON list of [when, seconds, status]; `when` is
of the monotonic clock. A late answer holds back no later question.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

_REQUEST = b"GET /health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
_PATIENCE = 10.0


@dataclass
class Probes:
    """What was seen, once the block is over."""

    samples: list[tuple[float, float, int]] = field(default_factory=list)

    def between(self, began: float, ended: float) -> list[float]:
        """Seconds of the probes that were sent within a time."""
        return [seconds for when, seconds, _ in self.samples if began <= when < ended]

    @property
    def failures(self) -> int:
        """Probes that were not answered with 200."""
        return sum(status != 200 for _, _, status in self.samples)


@contextlib.contextmanager
def probing(port: int, interval: float) -> Iterator[Probes]:
    """Probe a service during a block."""
    command = [sys.executable, "-m", "bench.probe", str(port), str(interval)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    probes = Probes()
    try:
        yield probes
        output, _ = process.communicate(timeout=_PATIENCE + 5)
        probes.samples = [(when, seconds, status) for when, seconds, status in json.loads(output)]
    finally:
        process.kill()
        process.wait()


async def _one(port: int) -> tuple[float, float, int]:
    began = time.monotonic()
    status = 0
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_REQUEST)
            status = int((await reader.read(-1))[9:12])
            writer.close()
    return began, time.monotonic() - began, status


async def main() -> None:
    """Probe until the standard input ends."""
    port, interval = int(sys.argv[1]), float(sys.argv[2])
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, over.set)
    asked: list[asyncio.Task[tuple[float, float, int]]] = []
    due = time.monotonic()
    while not over.is_set():
        asked.append(asyncio.create_task(_one(port)))
        due += interval
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), max(0.0, due - time.monotonic()))
    print(json.dumps(await asyncio.gather(*asked)))


if __name__ == "__main__":
    asyncio.run(main())
