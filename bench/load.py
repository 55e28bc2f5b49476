"""Closed-loop load from several processes, so that the client is not the limit of a big GPU."""

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
# Some hundred tokens; what makes each prompt another one stands in front, so that no server
# finds it in its cache.
_TEXT = "Tell me facts about number and history. " * 12


@dataclass(frozen=True)
class Load:
    """How many streams run, and what each asks for.

    Args:
        streams: how many requests run at once; each is followed by the next.
        each: how many follow each other.
        tokens: how many each request generates.
    """

    streams: int
    each: int
    tokens: int


def pool() -> Pool:
    """Start the client's processes; they serve many trials."""
    return multiprocessing.get_context("spawn").Pool(PROCESSES)


@dataclass
class Trial(Wave):
    """What became of a load, and how much of a core the busiest process of the client took."""

    busy: float = 0.0


def trial(clients: Pool, port: int, model: str, load: Load, number: int) -> Trial:
    """Run a load and wait for all answers.

    Args:
        clients: the client's processes.
        port: whom to ask, on the loopback interface.
        model: the model's name.
        load: what to ask.
        number: of the trial; no two ask the same prompts.
    """
    count = min(PROCESSES, load.streams)
    parts = [
        (port, model, load, number, list(range(first, load.streams, count)))
        for first in range(count)
    ]
    found = clients.starmap(_part, parts, chunksize=1)
    outcomes = [outcome for part, _ in found for outcome in part]
    return Trial(outcomes, max(busy for _, busy in found))


def _part(
    port: int, model: str, load: Load, number: int, streams: list[int]
) -> tuple[list[Outcome], float]:
    """Run some of the streams, in a process of the client's."""

    async def one(which: int) -> list[Outcome]:
        requests = (_request(model, load, f"{number}.{which}.{turn}") for turn in range(load.each))
        return [await stream(Address(port=port), request) for request in requests]

    async def together() -> Iterable[list[Outcome]]:
        return await asyncio.gather(*(one(which) for which in streams))

    began, worked = time.monotonic(), time.process_time()
    outcomes = [outcome for outcomes in asyncio.run(together()) for outcome in outcomes]
    return outcomes, (time.process_time() - worked) / (time.monotonic() - began)


def _request(model: str, load: Load, mark: str) -> bytes:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": f"Request {mark}. {_TEXT}"}],
        "max_tokens": load.tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return post(body)
