"""Many open streams on one worker: do all of them end well, what do they weigh, does it answer?"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from bench import checks
from bench.client import Outcome, post, wave
from bench.plan import Plan
from bench.probe import Probes, probing
from bench.service import Service, megabytes
from bench.stats import milliseconds
from bench.stub import client_body

PERIOD = 0.5
PROBE_INTERVAL = 0.02
# Beside the chunks with text: the role, the reason it ended, the usage, `[DONE]`.
OTHER_EVENTS = 4


@dataclass
class Hold:
    """What was seen while the streams were open."""

    outcomes: list[Outcome] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)
    cpu_seconds: float = 0.0
    ramped: float = 0.0
    ended: float = 0.0
    began: float = 0.0


def measure(plan: Plan, service: Service) -> tuple[dict[str, Any], list[checks.Check]]:
    """Hold streams that advance on their own clocks, then some that advance together.

    Args:
        plan: how many, how long.
        service: one in front of the stub engine.
    """
    before = megabytes(service.worker)
    paced = _phase(plan, service, "pace", plan.open_seconds)
    stepped = _phase(plan, service, "step", plan.step_seconds)
    figures = {"streams": plan.open_streams, "worker_mb_before": before} | paced
    figures["in_step"] = {name: stepped[name] for name in ("failed", "health_ms", "worker_busy")}
    return figures, _verdicts(figures)


def _phase(plan: Plan, service: Service, how: str, seconds: float) -> dict[str, Any]:
    chunks = int(seconds / PERIOD)
    with probing(service.port, PROBE_INTERVAL) as probes:
        hold = asyncio.run(_hold(plan, service, f"{how} {PERIOD}", chunks))
    return _figures(hold, probes, chunks)


async def _hold(plan: Plan, service: Service, how: str, chunks: int) -> Hold:
    hold = Hold(began=time.monotonic())
    requests = [post(client_body(chunks, how))] * plan.open_streams
    worker = service.worker
    async with asyncio.timeout(chunks * PERIOD + 60):
        streams = asyncio.create_task(wave(service.gateway, requests, 1 / plan.open_per_second))
        await asyncio.sleep(plan.open_streams / plan.open_per_second + PERIOD)
        hold.ramped, cpu = time.monotonic(), worker.cpu_times()
        # The first stream ends a lifetime after it began.
        hold.ended = hold.began + chunks * PERIOD
        while time.monotonic() < hold.ended - PERIOD:
            hold.memory.append(megabytes(worker))
            await asyncio.sleep(PERIOD)
        used = worker.cpu_times()
        hold.cpu_seconds = used.user + used.system - cpu.user - cpu.system
        hold.ended = time.monotonic()
        hold.outcomes = (await streams).outcomes
    return hold


def _figures(hold: Hold, probes: Probes, chunks: int) -> dict[str, Any]:
    failed = [
        outcome.error or f"status {outcome.status}, {outcome.events} events"
        for outcome in hold.outcomes
        if not outcome.ok or outcome.tokens != chunks or outcome.events != chunks + OTHER_EVENTS
    ]
    open_for = hold.ended - hold.ramped
    opened = probes.between(hold.began, hold.ramped)
    held = probes.between(hold.ramped, hold.ended)
    rate = len(hold.outcomes) / PERIOD
    return {
        "chunks_each": chunks,
        "chunks_per_second": round(rate),
        "failed": len(failed),
        "first_failure": failed[0] if failed else None,
        "worker_mb": {name: max(m[name] for m in hold.memory) for name in hold.memory[0]},
        "worker_busy": round(hold.cpu_seconds / open_for, 2),
        "worker_us_per_chunk": round(1e6 * hold.cpu_seconds / open_for / rate, 1),
        "health_failures": probes.failures,
        "health_ms": milliseconds(held),
        "health_ms_while_opening": milliseconds(opened),
        "held_seconds": round(open_for, 1),
    }


def _verdicts(figures: dict[str, Any]) -> list[checks.Check]:
    streams, memory = figures["streams"], figures["worker_mb"]
    health, opening = figures["health_ms"], figures["health_ms_while_opening"]
    step = figures["in_step"]
    return [
        checks.open_streams(streams, figures["failed"] + step["failed"]),
        checks.memory(streams, memory["rss"], memory["pss"]),
        checks.health(health["p99"], health["max"], figures["health_failures"]),
        checks.told("/health p99 while the streams are opened", f"{opening['p99']:.1f} ms"),
        checks.told(
            "/health p99, all streams advance at once", f"{step['health_ms']['p99']:.1f} ms"
        ),
        checks.told(
            "worker CPU per chunk, one chunk a read", f"{figures['worker_us_per_chunk']} us"
        ),
    ]
