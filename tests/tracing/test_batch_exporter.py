"""Spans that wait for a collector: in batches, bounded, and what is lost is told once."""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tests.waiting import eventually
from vllm_obtain.tracing import batch_exporter
from vllm_obtain.tracing.batch_exporter import BatchExporter


class Collector:
    def __init__(self) -> None:
        self.up = True
        self.free = threading.Event()
        self.free.set()
        self.taken: list[list[Any]] = []
        self.lost = 0

    def send(self, spans: Sequence[Any]) -> bool:
        self.free.wait(10)
        if self.up:
            self.taken.append(list(spans))
        return self.up

    def lose(self, count: int) -> None:
        self.lost += count


def test_they_come_in_batches_and_none_waits_for_long() -> None:
    collector = Collector()
    box = BatchExporter(collector.send, collector.lose, 100, 3, 0.05)
    for number in range(7):
        box.add(number)
    eventually(lambda: functools.reduce(operator.iadd, collector.taken, []) == list(range(7)))
    assert max(map(len, collector.taken)) == 3
    assert collector.lost == 0


def test_a_collector_that_hangs_costs_the_oldest_and_nobody_waits() -> None:
    collector = Collector()
    collector.free.clear()
    box = BatchExporter(collector.send, collector.lose, 10, 2, 30)
    for number in range(50):
        box.add(number)  # would hang if it waited
    assert collector.lost >= 50 - 10 - 2
    collector.free.set()
    box.close()
    assert functools.reduce(operator.iadd, collector.taken, [])[-10:] == list(range(40, 50))


def test_what_is_lost_is_told_once_and_its_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []

    class Log:
        def warning(self, text: str, **_: Any) -> None:
            messages.append(text)

        def info(self, text: str, **more: Any) -> None:
            messages.append(f"{text} {more['lost']}")

    monkeypatch.setattr(batch_exporter, "log", Log())
    collector = Collector()
    collector.up = False
    box = BatchExporter(collector.send, collector.lose, 100, 1, 30)
    for number in range(3):
        box.add(number)
    eventually(lambda: collector.lost == 3)
    collector.up = True
    box.add(3)
    eventually(lambda: collector.taken == [[3]])
    eventually(lambda: messages == ["trace spans lost", "trace export resumed 3"])
