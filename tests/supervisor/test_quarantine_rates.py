"""Whom the quarantine convicts in random histories of crashes, simulated on a virtual clock."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass

import pytest

from vllm_obtain.errors import RequestQuarantined
from vllm_obtain.supervisor.scheduling.quarantine import InFlight, Quarantine

SLOTS = 8
HOUR = 3600.0
SEGV = 139
# Shares of requests that crash the engine, of streams, and of lost streams that clients repeat.
CULPRITS, STREAMS, REPEATED = 0.03, 0.7, 0.9
ARRIVE, END, ALONE = range(3)


@dataclass
class Request:
    """A request: how long it runs, and when it crashes the engine, in seconds from its start."""

    seconds: float
    crashes_at: float | None
    is_stream: bool


class History:
    """An hour of requests to one engine, admitted as `AdmissionQueue` does."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a simulation
        self.now = 0.0
        self.quarantine = Quarantine(4 * HOUR, lambda: self.now)
        self.requests: dict[bytes, Request] = {}
        self.queue: list[bytes] = []
        self.running: dict[bytes, float] = {}
        self.alone: bytes | None = None
        self.process = 0
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, int, bytes, int]] = []
        while self.now < HOUR:
            self.now += self.random.expovariate(0.5)
            seconds = self.random.choice([0.5, 1, 2, 3, 5, 8, 15, 30, 60, 120])
            is_culprit = self.random.random() < CULPRITS
            crashes_at = seconds * self.random.random() ** 2 if is_culprit else None
            name = str(len(self.requests)).encode()
            self.requests[name] = Request(seconds, crashes_at, self.random.random() < STREAMS)
            self._plan(self.now, ARRIVE, name)

    def run(self) -> tuple[int, int]:
        """Run it; returns how many innocent requests and how many culprits were quarantined."""
        while self._events:
            self.now, _, kind, name, process = heapq.heappop(self._events)
            if kind == ARRIVE:
                self.queue.append(name)
            elif process != self.process or name not in self.running:
                continue
            elif kind == ALONE:
                self.alone = None if self.alone == name else self.alone
            elif self.requests[name].crashes_at is None:
                del self.running[name]
                self.alone = None if self.alone == name else self.alone
                self.quarantine.clear_suspect(name)
            else:
                self._crash()
            self._admit()
        found = [bytes.fromhex(entry.id) for entry in self.quarantine.quarantined]
        innocent = sum(self.requests[name].crashes_at is None for name in found)
        return innocent, len(found) - innocent

    def _plan(self, at: float, kind: int, name: bytes) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), kind, name, self.process))

    def _admit(self) -> None:
        while self.queue and self.alone is None:
            name = self.queue[0]
            try:
                seconds = self.quarantine.check(name, "e")
            except RequestQuarantined:
                self.queue.pop(0)
                continue
            if self.running if seconds else len(self.running) >= SLOTS:
                return
            self.queue.pop(0)
            self.running[name] = self.now
            if seconds:
                self.alone = name
                self._plan(self.now + seconds, ALONE, name)
            request = self.requests[name]
            self._plan(self.now + (request.crashes_at or request.seconds), END, name)

    def _crash(self) -> None:
        ages = {name: self.now - start for name, start in self.running.items()}
        self.quarantine.record_crash("m", "e", SEGV, list(map(InFlight, ages, ages.values())))
        self.running, self.alone = {}, None
        self.process += 1
        for name, age in ages.items():
            # The gateway retries what has no token yet; a client may send a lost stream again.
            if not self.requests[name].is_stream or age < 1:
                self.queue.append(name)
            elif self.random.random() < REPEATED:
                self._plan(self.now + self.random.uniform(1, 20), ARRIVE, name)


@pytest.mark.parametrize("seed", range(4))
def test_no_innocent_request_is_quarantined(seed: int) -> None:
    innocent, culprits = History(seed).run()
    assert innocent == 0
    assert culprits >= 5
