"""What the benchmarks stand on still starts."""

from __future__ import annotations

import json
import urllib.request

from bench.stub import client_body, stubbed


def test_the_stub_engine_is_served() -> None:
    with stubbed({}) as service:
        url = f"http://127.0.0.1:{service.port}/v1/chat/completions"
        body = json.dumps(client_body(3, streamed=False)).encode()
        asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 3
