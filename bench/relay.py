"""Relay capacity: a stub engine that costs next to nothing, asked three ways.

Directly over its socket, through nginx, and through the gateway. Plain answers are asked for
over kept connections. The gateway asks its engine for a stream in either case, checks the
request, takes a lease, reads every event and counts tokens; nginx passes bytes on.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from bench.checks import Check, told
from bench.client import Address, Outcome, post, stream, wave
from bench.nginx import proxying
from bench.pinger import ping
from bench.plan import Plan
from bench.service import Service
from bench.stats import milliseconds
from bench.stub import client_body, engine_request

PLAIN_CONNECTIONS = 16
PLAIN_TOKENS = 16
FLOOD_STREAMS = 16
FLOOD_CHUNKS = 1000
BURST = 64
# Of a core: a process that uses more has no more to give.
FULL = 0.9


@dataclass
class Way:
    """One way to the stub engine.

    Args:
        name: direct, nginx or gateway.
        address: where to connect.
        streamed: the request for a stream of so many chunks.
        processes: whose CPU time is told.
    """

    name: str
    address: Address
    streamed: Callable[[int], bytes]
    processes: dict[str, psutil.Process]
    plain: list[float] = field(default_factory=list)
    chunks: list[float] = field(default_factory=list)
    plain_ms: dict[str, float] = field(default_factory=dict)
    busy: dict[str, dict[str, float]] = field(default_factory=dict)
    burst: list[float] = field(default_factory=list)


def measure(plan: Plan, service: Service) -> tuple[dict[str, Any], list[Check]]:
    """Measure plain requests, floods of chunks, and bursts of requests.

    Args:
        plan: how much.
        service: one in front of the stub engine.
    """
    with proxying(service.engine) as proxy:
        ways = [_direct(service), _gateway(service)]
        if proxy is not None:
            ways.insert(1, Way("nginx", proxy.address, engine_request, {"relay": proxy.worker}))
        for number in range(plan.relay_rounds):
            for way in ways if number % 2 else reversed(ways):
                _round(way, service, plan.relay_seconds)
        for way in (way for _ in range(plan.bursts) for way in ways):
            way.burst += [outcome.wait for outcome in asyncio.run(_burst(way)).outcomes]
    figures: dict[str, Any] = {way.name: _figures(way) for way in ways}
    if proxy is None:
        figures["note"] = "nginx is not installed (or did not start), so it was left out."
    return figures, list(_told(figures))


def _direct(service: Service) -> Way:
    return Way("direct", service.engine, engine_request, {})


def _gateway(service: Service) -> Way:
    processes = {"relay": service.worker, "supervisor": service.supervisor}
    return Way("gateway", service.gateway, lambda tokens: post(client_body(tokens)), processes)


def _round(way: Way, service: Service, seconds: float) -> None:
    processes = {**way.processes, "engine": service.engine_process, "client": psutil.Process()}
    request = post(client_body(PLAIN_TOKENS, streamed=False), close=False)
    with _busy(processes, way.busy, "plain"):
        pings = asyncio.run(ping(way.address, request, PLAIN_CONNECTIONS, seconds))
    if pings.failures:
        raise RuntimeError(f"{way.name}: {pings.failures[0]}")
    way.plain.append(pings.per_second)
    way.plain_ms = milliseconds(pings.waits)
    with _busy(processes, way.busy, "stream"):
        way.chunks.append(asyncio.run(_flood(way, seconds)))


async def _flood(way: Way, seconds: float) -> float:
    """Keep streams open that are as fast as they can be; returns chunks a second."""
    request = way.streamed(FLOOD_CHUNKS)
    seen: list[Outcome] = []
    began = time.monotonic()

    async def one() -> None:
        while time.monotonic() < began + seconds:
            seen.append(await stream(way.address, request))

    async with asyncio.timeout(seconds + 60):
        await asyncio.gather(*(one() for _ in range(FLOOD_STREAMS)))
    wrong = [outcome for outcome in seen if not outcome.ok or outcome.tokens != FLOOD_CHUNKS]
    if wrong:
        raise RuntimeError(f"{way.name}: {wrong[0]}")
    return sum(outcome.tokens for outcome in seen) / (time.monotonic() - began)


async def _burst(way: Way) -> Any:
    """Ask for many streams at the same moment."""
    async with asyncio.timeout(30):
        seen = await wave(way.address, [way.streamed(4)] * BURST)
    if seen.failures:
        raise RuntimeError(f"{way.name}: {seen.failures[0]}")
    return seen


@contextmanager
def _busy(
    processes: dict[str, psutil.Process], into: dict[str, dict[str, float]], name: str
) -> Iterator[None]:
    """Note what share of a core each process used."""
    before = {who: _cpu(process) for who, process in processes.items()}
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    into[name] = {
        who: round((_cpu(process) - before[who]) / seconds, 2) for who, process in processes.items()
    }


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _figures(way: Way) -> dict[str, Any]:
    return {
        "plain_per_second": round(statistics.median(way.plain), 1),
        "plain_ms": way.plain_ms,
        "chunks_per_second": round(statistics.median(way.chunks)),
        "samples": {
            "plain_per_second": [round(rate, 1) for rate in way.plain],
            "chunks_per_second": [round(rate) for rate in way.chunks],
        },
        "busy_cores": way.busy,
        "burst_first_token_ms": milliseconds(way.burst),
    }


def _told(figures: dict[str, Any]) -> Iterator[Check]:
    ways = [name for name in ("direct", "nginx", "gateway") if name in figures]
    for what, rate, kind in (
        ("plain requests/s", "plain_per_second", "plain"),
        ("streamed chunks/s", "chunks_per_second", "stream"),
    ):
        for name in ways:
            bound = _bound(figures[name]["busy_cores"][kind])
            yield told(f"relay, {what}: {name}", f"{figures[name][rate]:,.0f}{bound}")
    bursts = {name: figures[name]["burst_first_token_ms"]["p50"] for name in ways}
    added = bursts["gateway"] - bursts["direct"]
    yield told(f"burst of {BURST} at once: added p50 to first token", f"{added:.1f} ms")


def _bound(busy: dict[str, float]) -> str:
    """Say so when it was not the relay that was at its limit."""
    full = [who for who, share in busy.items() if share > FULL and who != "relay"]
    return f" (limit of the {' and the '.join(full)})" if full else ""
