"""Relay capacity: requests to a fast stub engine directly, through nginx and through the gateway.

Non-streaming requests use keep-alive connections. The gateway always requests a stream from the
engine, validates the request, acquires a lease, decodes every event and counts tokens. nginx
forwards bytes.
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

from bench.checks import Check, figure
from bench.client import Address, Outcome, post, stream, wave
from bench.closed_loop import closed_loop
from bench.nginx import start_nginx
from bench.plan import Plan
from bench.progress import Progress, Step
from bench.service import Service
from bench.stats import milliseconds
from bench.stub import client_body, engine_request

PLAIN_CONNECTIONS = 16
PLAIN_TOKENS = 16
FLOOD_STREAMS = 16
FLOOD_CHUNKS = 1000
BURST = 64
# A process that uses a larger share of a core limits the measurement.
SATURATED = 0.9


@dataclass
class Target:
    """One way to reach the stub engine.

    Args:
        name: direct, nginx or gateway.
        address: address to connect to.
        stream_request: builds the request for a stream of a number of chunks.
        processes: processes whose CPU usage is reported.
    """

    name: str
    address: Address
    stream_request: Callable[[int], bytes]
    processes: dict[str, psutil.Process]
    plain: list[float] = field(default_factory=list)
    chunks: list[float] = field(default_factory=list)
    plain_ms: dict[str, float] = field(default_factory=dict)
    busy: dict[str, dict[str, float]] = field(default_factory=dict)
    burst: list[float] = field(default_factory=list)


def steps(plan: Plan) -> list[Step]:
    """List the steps of `measure`."""
    return [
        Step("relay capacity", plan.relay_rounds * 6 * plan.relay_seconds, plan.relay_rounds),
        Step("bursts of requests", plan.bursts * 0.5, plan.bursts),
    ]


def measure(plan: Plan, service: Service, progress: Progress) -> tuple[dict[str, Any], list[Check]]:
    """Measure non-streaming requests, streamed chunks and bursts of requests.

    Args:
        plan: amount of work.
        service: a service in front of the stub engine.
        progress: shows the steps of `steps`.
    """
    with start_nginx(service.engine) as proxy:
        targets = [_direct(service), _gateway(service)]
        if proxy is not None:
            targets.insert(
                1, Target("nginx", proxy.address, engine_request, {"relay": proxy.worker})
            )
        progress.next_step()
        for number in range(plan.relay_rounds):
            progress.next_round()
            for target in targets if number % 2 else reversed(targets):
                _round(target, service, plan.relay_seconds)
        progress.next_step()
        for _ in range(plan.bursts):
            progress.next_round()
            for target in targets:
                target.burst += [outcome.ttft for outcome in asyncio.run(_burst(target)).outcomes]
    figures: dict[str, Any] = {target.name: _figures(target) for target in targets}
    if proxy is None:
        figures["note"] = "nginx was skipped: it is not installed or did not start."
    return figures, list(_checks(figures))


def _direct(service: Service) -> Target:
    return Target("direct", service.engine, engine_request, {})


def _gateway(service: Service) -> Target:
    processes = {"relay": service.worker, "supervisor": service.supervisor}
    return Target("gateway", service.gateway, lambda tokens: post(client_body(tokens)), processes)


def _round(target: Target, service: Service, seconds: float) -> None:
    processes = {**target.processes, "engine": service.engine_process, "client": psutil.Process()}
    request = post(client_body(PLAIN_TOKENS, stream=False), close=False)
    with _cpu_usage(processes, target.busy, "plain"):
        result = asyncio.run(closed_loop(target.address, request, PLAIN_CONNECTIONS, seconds))
    if result.failures:
        raise RuntimeError(f"{target.name}: {result.failures[0]}")
    target.plain.append(result.per_second)
    target.plain_ms = milliseconds(result.latencies)
    with _cpu_usage(processes, target.busy, "stream"):
        target.chunks.append(asyncio.run(_flood(target, seconds)))


async def _flood(target: Target, seconds: float) -> float:
    """Read streams at full speed; returns chunks per second."""
    request = target.stream_request(FLOOD_CHUNKS)
    outcomes: list[Outcome] = []
    start = time.monotonic()

    async def one() -> None:
        while time.monotonic() < start + seconds:
            outcomes.append(await stream(target.address, request))

    async with asyncio.timeout(seconds + 60):
        await asyncio.gather(*(one() for _ in range(FLOOD_STREAMS)))
    failed = [outcome for outcome in outcomes if not outcome.ok or outcome.tokens != FLOOD_CHUNKS]
    if failed:
        raise RuntimeError(f"{target.name}: {failed[0]}")
    return sum(outcome.tokens for outcome in outcomes) / (time.monotonic() - start)


async def _burst(target: Target) -> Any:
    """Request many streams at the same moment."""
    async with asyncio.timeout(30):
        result = await wave(target.address, [target.stream_request(4)] * BURST)
    if result.failures:
        raise RuntimeError(f"{target.name}: {result.failures[0]}")
    return result


@contextmanager
def _cpu_usage(
    processes: dict[str, psutil.Process], into: dict[str, dict[str, float]], name: str
) -> Iterator[None]:
    """Record the share of a core that each process used."""
    before = {role: _cpu(process) for role, process in processes.items()}
    start = time.monotonic()
    yield
    seconds = time.monotonic() - start
    into[name] = {
        role: round((_cpu(process) - before[role]) / seconds, 2)
        for role, process in processes.items()
    }


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _figures(target: Target) -> dict[str, Any]:
    return {
        "plain_per_second": round(statistics.median(target.plain), 1),
        "plain_ms": target.plain_ms,
        "chunks_per_second": round(statistics.median(target.chunks)),
        "samples": {
            "plain_per_second": [round(rate, 1) for rate in target.plain],
            "chunks_per_second": [round(rate) for rate in target.chunks],
        },
        "busy_cores": target.busy,
        "burst_ttft_ms": milliseconds(target.burst),
    }


def _checks(figures: dict[str, Any]) -> Iterator[Check]:
    targets = [name for name in ("direct", "nginx", "gateway") if name in figures]
    for metric, rate, kind in (
        ("requests/s without streaming", "plain_per_second", "plain"),
        ("streamed chunks/s", "chunks_per_second", "stream"),
    ):
        for name in targets:
            limit = _limit(figures[name]["busy_cores"][kind])
            yield figure(f"relay, {metric}: {name}", f"{figures[name][rate]:,.0f}{limit}")
    bursts = {name: figures[name]["burst_ttft_ms"]["p50"] for name in targets}
    added = bursts["gateway"] - bursts["direct"]
    yield figure(f"burst of {BURST} requests: added TTFT p50", f"{added:.1f} ms")


def _limit(busy: dict[str, float]) -> str:
    """Name the processes other than the relay that limited the measurement."""
    limits = [role for role, share in busy.items() if share > SATURATED and role != "relay"]
    return f" (limited by the {' and the '.join(limits)})" if limits else ""
