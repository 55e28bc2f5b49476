"""`python -m bench.worker_cpu`: CPU time of the gateway worker per streamed chunk and per request.

Measures CPU time instead of wall time, so that other load on the machine matters less. Compare two
versions in turns: caches that others fill still make each of them slower. The engine is the stub.
Each stream has a chunk every PERIOD, so that each chunk is read alone.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from bench.client import post, wave
from bench.closed_loop import closed_loop
from bench.service import Service
from bench.stub import client_body, stub_service

CONNECTIONS = 16
TOKENS = 16
# Seconds between the chunks of a stream.
PERIOD = 0.5
OPEN_PER_SECOND = 250.0


@dataclass
class Cost:
    """CPU time per unit of work, in microseconds."""

    user: float = 0.0
    system: float = 0.0

    @property
    def total(self) -> float:
        """User and system time together."""
        return self.user + self.system


@contextmanager
def cpu_time(process: psutil.Process) -> Iterator[Cost]:
    """Yield the CPU time of a block; complete at its end, in seconds."""
    cost, before = Cost(), process.cpu_times()
    yield cost
    after = process.cpu_times()
    cost.user, cost.system = after.user - before.user, after.system - before.system


def per_chunk(service: Service, streams: int, seconds: float) -> Cost:
    """Measure streams that are open already, without their start and end.

    Args:
        service: a service in front of the stub engine.
        streams: number of open streams; each has a chunk every PERIOD.
        seconds: duration.
    """
    return asyncio.run(_per_chunk(service, streams, seconds))


async def _per_chunk(service: Service, streams: int, seconds: float) -> Cost:
    opening = streams / OPEN_PER_SECOND
    chunks = int((seconds + opening) / PERIOD) + 4
    request = post(client_body(chunks, f"pace {PERIOD}"))
    result = asyncio.create_task(wave(service.gateway, [request] * streams, 1 / OPEN_PER_SECOND))
    await asyncio.sleep(opening + 2 * PERIOD)
    start = asyncio.get_running_loop().time()
    with cpu_time(service.worker) as cost:
        await asyncio.sleep(seconds)
    elapsed = asyncio.get_running_loop().time() - start
    done = await result
    if done.failures:
        raise RuntimeError(done.failures[0])
    # A chunk that the stub sends late delays all that follow, so the rate is that of whole streams.
    rate = sum(each.tokens / (each.end - (each.first or 0.0)) for each in done.outcomes)
    return _each(cost, rate * elapsed)


def per_request(service: Service, seconds: float) -> tuple[Cost, float]:
    """Measure requests without streaming, on keep-alive connections.

    Args:
        service: a service in front of the stub engine.
        seconds: duration.

    Returns:
        The CPU time of a request, and the requests per second.
    """
    request = post(client_body(TOKENS, stream=False), close=False)
    with cpu_time(service.worker) as cost:
        result = asyncio.run(closed_loop(service.gateway, request, CONNECTIONS, seconds))
    if result.failures:
        raise RuntimeError(result.failures[0])
    return _each(cost, len(result.latencies)), result.per_second


def _each(cost: Cost, count: float) -> Cost:
    return Cost(1e6 * cost.user / count, 1e6 * cost.system / count)


def main() -> None:
    """Print a line per round, and the medians."""
    parser = argparse.ArgumentParser(prog="python -m bench.worker_cpu")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a measurement (5)")
    parser.add_argument("--streams", type=int, default=1000, help="open streams (1000)")
    arguments = parser.parse_args()
    chunks: list[Cost] = []
    requests: list[Cost] = []
    with stub_service({}) as service:
        per_request(service, 1.0)
        for _ in range(arguments.rounds):
            chunks.append(per_chunk(service, arguments.streams, arguments.seconds))
            cost, rate = per_request(service, arguments.seconds)
            requests.append(cost)
            print(f"chunk {_line(chunks[-1])}; request {_line(cost)}, {rate:.0f}/s", flush=True)
    for name, costs in (("chunk", chunks), ("request", requests)):
        print(f"us of worker CPU per {name}: {statistics.median(c.total for c in costs):.1f}")


def _line(cost: Cost) -> str:
    return f"{cost.total:.1f} us ({cost.user:.1f} user, {cost.system:.1f} system)"


if __name__ == "__main__":
    main()
