"""What becomes of requests when their engine is killed."""

from __future__ import annotations

import os
import signal

import pytest

from tests.contract.target import CHAT, Target


@pytest.mark.timeout(300)
def test_a_killed_engine_is_replaced(target: Target) -> None:
    if target.name == "vllm":
        pytest.skip("tests/engines/vllm/test_real_engine.py kills each of its processes")
    before = target.service.engine()["pid"]
    talk = [{"role": "user", "content": "Tell me a long story."}]
    stream = target.stream(CHAT, {"messages": talk, "max_tokens": 200, "temperature": 1})
    chunks = [next(stream) for _ in range(3)]
    os.kill(before, signal.SIGKILL)
    chunks += stream
    assert chunks[-1]["error"]["code"] == "engine_lost", "a stream that was cut says so"
    assert target.service.request("/health")[0] == 200
    assert target.chat(max_tokens=2).text, "the next request waits for the successor"
    assert target.service.engine()["pid"] != before
    crashes = [line for line in target.service.logged("errors.log") if "crash" in line["event"]]
    assert "SIGKILL" in crashes[-1]["reason"]
