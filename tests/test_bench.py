"""The parts of the benchmarks start, and progress is shown."""

from __future__ import annotations

import asyncio
import io
import json
import time
import urllib.request

import pytest

from bench import soak
from bench.client import Address
from bench.progress import Progress, Step
from bench.stub import client_body, stub_service
from bench.worker_cpu import per_chunk, per_request
from tests.service import Service


@pytest.mark.slow
def test_the_stub_engine_is_served() -> None:
    with stub_service({}) as service:
        url = f"http://127.0.0.1:{service.port}/v1/chat/completions"
        body = json.dumps(client_body(3, stream=False)).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert json.load(response)["usage"]["completion_tokens"] == 3
        cost, rate = per_request(service, 0.5)
        assert cost.total > 0 and rate > 0
        per_chunk(service, 20, 0.5)  # raises if a stream fails


def _soak(service: Service) -> soak.Level:
    level = soak.Level(streams=3, seconds=0.5)
    asyncio.run(soak.load(Address(port=service.port), level))
    return level


def test_the_soak_detects_responses_of_other_requests(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = _soak(service)
    assert len(level.outcomes) >= 3 and all(outcome.ok for outcome in level.outcomes)
    assert not level.wrong
    request_for = soak.request_for
    monkeypatch.setattr(soak, "request_for", lambda number, _: request_for(number, "other text"))
    level = _soak(service)
    assert len(level.wrong) == len(level.outcomes)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_step_round_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    output = io.StringIO()
    steps = [Step("first", 60, 4), Step("second", 120)]
    with Progress(steps, ticker=False, output=output) as progress:
        progress.next_step()
        now += 30
        progress.set_round(3)
        assert progress.line() == ("[1/2] first: round 3 of 4; elapsed 0:30, remaining about 2:30")
        now += 30
        progress.next_step()
        now += 60
        progress.set_detail("7 requests")
    assert output.getvalue().splitlines() == [
        "[1/2] first: round 1 of 4; elapsed 0:00, remaining about 3:00",
        "[1/2] first: round 3 of 4; elapsed 0:30, remaining about 2:30",
        "[2/2] second; elapsed 1:00, remaining about 2:00",
        "[2/2] second, 7 requests; elapsed 2:00, remaining about 1:00",
    ]


def test_progress_stays_on_one_line_of_a_terminal() -> None:
    output = _Terminal()
    with Progress([Step("only", 10)], output=output) as progress:
        progress.next_step()
    assert "only" in output.getvalue() and "\n" not in output.getvalue()
    assert output.getvalue().endswith("\r\x1b[K")
