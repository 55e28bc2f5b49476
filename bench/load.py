"""Closed-loop load from several processes, so that the client does not limit a large GPU."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.pool import Pool
from typing import Any

from bench.client import Address, Outcome, Wave, post, stream

PROCESSES = 8
# Some hundred tokens. Each prompt starts with a unique number, so that no server has it in its
# prefix cache.
_TEXT = "Tell me facts about number and history. " * 12


@dataclass(frozen=True)
class Load:
    """Amount of load.

    Args:
        streams: number of concurrent streams.
        each: number of requests per stream, one after the other.
        tokens: completion tokens per request.
    """

    streams: int
    each: int
    tokens: int


def pool() -> Pool:
    """Start the client processes for all trials."""
    return multiprocessing.get_context("spawn").Pool(PROCESSES)


@dataclass
class Trial(Wave):
    """Results of a load, and the CPU share of the busiest client process."""

    busy: float = 0.0


def trial(clients: Pool, port: int, model: str, load: Load, number: int) -> Trial:
    """Run a load and wait for all responses.

    Args:
        clients: the client processes.
        port: port of the server on the loopback interface.
        model: name of the model.
        load: amount of load.
        number: number of the trial; each trial has its own prompts.
    """
    count = min(PROCESSES, load.streams)
    parts = [
        (port, model, load, number, list(range(first, load.streams, count)))
        for first in range(count)
    ]
    results = clients.starmap(_part, parts, chunksize=1)
    outcomes = [outcome for part, _ in results for outcome in part]
    return Trial(outcomes, max(busy for _, busy in results))


def _part(
    port: int, model: str, load: Load, number: int, streams: list[int]
) -> tuple[list[Outcome], float]:
    """Run some of the streams in a client process."""

    async def one(index: int) -> list[Outcome]:
        requests = (_request(model, load, f"{number}.{index}.{turn}") for turn in range(load.each))
        return [await stream(Address(port=port), request) for request in requests]

    async def together() -> Iterable[list[Outcome]]:
        return await asyncio.gather(*(one(index) for index in streams))

    start, cpu_start = time.monotonic(), time.process_time()
    outcomes = [outcome for outcomes in asyncio.run(together()) for outcome in outcomes]
    return outcomes, (time.process_time() - cpu_start) / (time.monotonic() - start)


def _request(model: str, load: Load, label: str) -> bytes:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": f"Request {label}. {_TEXT}"}],
        "max_tokens": load.tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return post(body)
