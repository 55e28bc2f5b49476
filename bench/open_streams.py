"""Many open streams on one worker: completion, memory and latency of /health."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from bench import checks
from bench.client import Outcome, post, wave
from bench.plan import Plan
from bench.probe import Probes, health_probe
from bench.progress import Progress, Step
from bench.service import Service, megabytes
from bench.stats import milliseconds
from bench.stub import client_body

PERIOD = 0.5
PROBE_INTERVAL = 0.02
# Events without text: role, finish reason, usage, `[DONE]`.
OTHER_EVENTS = 4


@dataclass
class Result:
    """Measurements while the streams were open; times are of the monotonic clock.

    Args:
        start: when the first stream was opened.
        connected: when all streams were open.
        end: when the first stream was about to end.
        cpu_seconds: CPU time of the worker in between.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)
    cpu_seconds: float = 0.0
    start: float = 0.0
    connected: float = 0.0
    end: float = 0.0


def steps(plan: Plan) -> list[Step]:
    """List the steps of `measure`."""
    connect = plan.open_streams / plan.open_per_second
    return [
        Step(f"{plan.open_streams:,} open streams", plan.open_seconds + connect + 5),
        Step(f"{plan.open_streams:,} open streams in step", plan.step_seconds + connect + 2),
    ]


def measure(
    plan: Plan, service: Service, progress: Progress
) -> tuple[dict[str, Any], list[checks.Check]]:
    """Open streams that advance at different times, then streams that advance in step.

    Args:
        plan: number and duration of the streams.
        service: a service in front of the stub engine.
        progress: shows the steps of `steps`.
    """
    before = megabytes(service.worker)
    progress.next_step()
    apart = _phase(plan, service, "pace", plan.open_seconds)
    progress.next_step()
    in_step = _phase(plan, service, "step", plan.step_seconds)
    figures = {"streams": plan.open_streams, "worker_mb_before": before} | apart
    figures["in_step"] = {name: in_step[name] for name in ("failed", "health_ms", "worker_busy")}
    return figures, _verdicts(figures)


def _phase(plan: Plan, service: Service, mode: str, seconds: float) -> dict[str, Any]:
    chunks = int(seconds / PERIOD)
    with health_probe(service.port, PROBE_INTERVAL) as probes:
        result = asyncio.run(_run(plan, service, f"{mode} {PERIOD}", chunks))
    return _figures(result, probes, chunks)


async def _run(plan: Plan, service: Service, mode: str, chunks: int) -> Result:
    result = Result(start=time.monotonic())
    requests = [post(client_body(chunks, mode))] * plan.open_streams
    worker = service.worker
    async with asyncio.timeout(chunks * PERIOD + 60):
        streams = asyncio.create_task(wave(service.gateway, requests, 1 / plan.open_per_second))
        await asyncio.sleep(plan.open_streams / plan.open_per_second + PERIOD)
        result.connected, cpu = time.monotonic(), worker.cpu_times()
        # The first stream ends this long after its start.
        result.end = result.start + chunks * PERIOD
        while time.monotonic() < result.end - PERIOD:
            result.memory.append(megabytes(worker))
            await asyncio.sleep(PERIOD)
        used = worker.cpu_times()
        result.cpu_seconds = used.user + used.system - cpu.user - cpu.system
        result.end = time.monotonic()
        result.outcomes = (await streams).outcomes
    return result


def _figures(result: Result, probes: Probes, chunks: int) -> dict[str, Any]:
    failed = [
        outcome.error or f"status {outcome.status}, {outcome.events} events"
        for outcome in result.outcomes
        if not outcome.ok or outcome.tokens != chunks or outcome.events != chunks + OTHER_EVENTS
    ]
    open_for = result.end - result.connected
    connecting = probes.between(result.start, result.connected)
    open_latencies = probes.between(result.connected, result.end)
    rate = len(result.outcomes) / PERIOD
    return {
        "chunks_each": chunks,
        "chunks_per_second": round(rate),
        "failed": len(failed),
        "first_failure": failed[0] if failed else None,
        "worker_mb": {name: max(m[name] for m in result.memory) for name in result.memory[0]},
        "worker_busy": round(result.cpu_seconds / open_for, 2),
        "worker_us_per_chunk": round(1e6 * result.cpu_seconds / open_for / rate, 1),
        "health_failures": probes.failures,
        "health_ms": milliseconds(open_latencies),
        "health_ms_while_connecting": milliseconds(connecting),
        "open_seconds": round(open_for, 1),
    }


def _verdicts(figures: dict[str, Any]) -> list[checks.Check]:
    streams, memory = figures["streams"], figures["worker_mb"]
    health, connecting = figures["health_ms"], figures["health_ms_while_connecting"]
    step = figures["in_step"]
    return [
        checks.open_streams(streams, figures["failed"] + step["failed"]),
        checks.memory(streams, memory["rss"], memory["pss"]),
        checks.health(streams, health["p99"], health["max"], figures["health_failures"]),
        checks.figure("/health p99 while streams connect", f"{connecting['p99']:.1f} ms"),
        checks.figure(
            "/health p99 when all streams advance at once", f"{step['health_ms']['p99']:.1f} ms"
        ),
        checks.figure(
            "worker CPU per chunk, one chunk per read", f"{figures['worker_us_per_chunk']} us"
        ),
    ]
