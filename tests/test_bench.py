"""What the benchmarks stand on still starts."""

from __future__ import annotations

import asyncio
import json
import urllib.request

import pytest

from bench import soak
from bench.client import Address
from bench.stub import client_body, stubbed
from tests.service import Service


def test_the_stub_engine_is_served() -> None:
    with stubbed({}) as service:
        url = f"http://127.0.0.1:{service.port}/v1/chat/completions"
        body = json.dumps(client_body(3, streamed=False)).encode()
        asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 3


def _soaked(service: Service) -> soak.Level:
    level = soak.Level(streams=3, seconds=0.5)
    asyncio.run(soak.load(Address(port=service.port), level))
    return level


def test_the_soak_holds_answers_to_their_numbers(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = _soaked(service)
    assert len(level.outcomes) >= 3 and all(outcome.ok for outcome in level.outcomes)
    assert not level.wrong
    mine = soak.request_for
    monkeypatch.setattr(soak, "request_for", lambda number, _: mine(number, "somebody else's"))
    level = _soaked(service)
    assert len(level.wrong) == len(level.outcomes)
