"""Requests /health at a fixed interval, each time on a new connection, in a separate process.

    python -m bench.probe PORT INTERVAL

Runs until the end of its standard input, then prints a JSON list of [start, seconds, status] with
times of the monotonic clock. A late response does not delay the next request.
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

_REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_TIMEOUT = 10.0


@dataclass
class Probes:
    """Results of the requests, available after the block."""

    samples: list[tuple[float, float, int]] = field(default_factory=list)

    def between(self, start: float, end: float) -> list[float]:
        """Return the latencies of the requests that were sent in an interval."""
        return [seconds for sent, seconds, _ in self.samples if start <= sent < end]

    @property
    def failures(self) -> int:
        """Number of requests without a 200."""
        return sum(status != 200 for _, _, status in self.samples)


@contextlib.contextmanager
def health_probe(port: int, interval: float) -> Iterator[Probes]:
    """Request /health of a service during a block."""
    command = [sys.executable, "-m", "bench.probe", str(port), str(interval)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    probes = Probes()
    try:
        yield probes
        output, _ = process.communicate(timeout=_TIMEOUT + 5)
        probes.samples = [(sent, seconds, status) for sent, seconds, status in json.loads(output)]
    finally:
        process.kill()
        process.wait()


async def _request(port: int) -> tuple[float, float, int]:
    start = time.monotonic()
    status = 0
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(_TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_REQUEST)
            status = int((await reader.read(-1))[9:12])
            writer.close()
    return start, time.monotonic() - start, status


async def main() -> None:
    """Send requests until the end of the standard input."""
    port, interval = int(sys.argv[1]), float(sys.argv[2])
    closed = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, closed.set)
    tasks: list[asyncio.Task[tuple[float, float, int]]] = []
    next_start = time.monotonic()
    while not closed.is_set():
        tasks.append(asyncio.create_task(_request(port)))
        next_start += interval
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closed.wait(), max(0.0, next_start - time.monotonic()))
    print(json.dumps(await asyncio.gather(*tasks)))


if __name__ == "__main__":
    asyncio.run(main())
