"""The whole service with a real vLLM; skipped where there is none.

VLLM_PYTHON names an interpreter that has vLLM; `make test ENGINES=all` makes one. What every engine
does is in tests/contract. Its start takes most of a minute, so all tests share one (the contract's
come before these), and those that kill it come last.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fleet import VLLM_CONTEXT as CONTEXT
from tests.fleet import Fleet, engine
from tests.service import Service
from tests.waiting import eventually, wait_for_exit

MISSING = engine("vllm").why_unavailable()
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=str(MISSING)), pytest.mark.timeout(400)]
RESTART_SECONDS = 120


@pytest.fixture(scope="session")
def vllm(fleet: Fleet) -> Service:
    return fleet.service("vllm")


def children(service: Service) -> list[psutil.Process]:
    """The processes behind vLLM's front."""
    return psutil.Process(service.engine()["pid"]).children(recursive=True)


@pytest.mark.parametrize("temperature", [0, 1.0], ids=["alike", "drawn"])
def test_choices_stream_and_plain_are_the_same(vllm: Service, temperature: float) -> None:
    body = {"prompt": "Once upon a time", "n": 3, "max_tokens": 8, "seed": 7, "logprobs": 1}
    body |= {"temperature": temperature, "logit_bias": {"0": -100, "2": -100}}
    plain = vllm.json("/v1/completions", body)
    texts = [choice["text"] for choice in plain["choices"]]
    assert len(set(texts)) == (3 if temperature else 1)
    assert plain["usage"]["completion_tokens"] == 24
    assert [len(choice["logprobs"]["tokens"]) for choice in plain["choices"]] == [8] * 3
    streamed = vllm.request("/v1/completions", {**body, "stream": True})[2]
    told = ["", "", ""]
    for line in streamed.splitlines():
        for choice in json.loads(line[6:])["choices"] if line.startswith(b"data: {") else ():
            told[choice["index"]] += choice["text"]
    assert told == texts


@pytest.mark.parametrize("limit", [{"max_tokens": CONTEXT}, {"max_tokens": 10**6}])
def test_an_answer_ends_with_the_context(vllm: Service, limit: dict[str, Any]) -> None:
    body = {"prompt": [5] * (CONTEXT - 20), "logit_bias": {"0": -100, "2": -100}, **limit}
    answer = vllm.json("/v1/completions", body)
    assert answer["usage"]["total_tokens"] <= CONTEXT
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")


@pytest.mark.parametrize(
    ("prompt", "context"),
    [
        ([5] * CONTEXT, str(CONTEXT)),
        ("hello world " * 2000, str(CONTEXT)),
        # Told by the gateway, which knows what the model was made for.
        ("a b " * 200_000, r"\d+"),
    ],
    ids=["tokens", "text", "long text"],
)
def test_a_prompt_that_is_too_long_is_told_with_the_context(
    vllm: Service, prompt: Any, context: str
) -> None:
    status, _, body = vllm.request("/v1/completions", {"prompt": prompt})
    error = json.loads(body)["error"]
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")
    assert re.search(f"context length is {context} tokens", error["message"])


@pytest.mark.parametrize("name", ["EngineCore", "APIServer", "Worker", ""])
def test_a_killed_process_under_load_is_survived(vllm: Service, name: str) -> None:
    eventually(lambda: vllm.status()["engines"][0]["state"] == "ready", RESTART_SECONDS)
    behind = children(vllm)
    front = psutil.Process(vllm.engine()["pid"])
    victim = next((each for each in behind if name and name in each.name()), front)
    assert bool(name) == (victim != front), [each.name() for each in behind]
    restarts = vllm.engine()["restarts"]
    streams = [threading.Thread(target=_long_stream, args=(vllm,)) for _ in range(4)]
    for stream in streams:
        stream.start()
    eventually(lambda: vllm.engine()["in_flight"] == 4)
    victim.kill()
    eventually(lambda: vllm.status()["engines"][0]["restarts"] == restarts + 1, timeout=5)
    assert vllm.request("/health", timeout=1)[0] == 200
    assert not wait_for_exit([front, *behind], 5)
    body = {"prompt": "Hello", "max_tokens": 4}
    answer = vllm.json("/v1/completions", body, timeout=RESTART_SECONDS)
    assert answer["usage"]["completion_tokens"] > 0
    for stream in streams:
        stream.join(RESTART_SECONDS)
        assert not stream.is_alive()
    crashes = [line for line in vllm.logged("errors.log") if line["event"] == "engine crashed"]
    assert len(crashes) == restarts + 1
    # Whoever was killed, it was not by what it was asked.
    events = {line["event"] for line in vllm.logged("model_operations.log")}
    assert "request suspected" not in events


def _long_stream(service: Service) -> None:
    body = {"prompt": [5] * 20, "max_tokens": 200, "logit_bias": {"0": -100, "2": -100}}
    service.request("/v1/completions", {**body, "stream": True}, timeout=RESTART_SECONDS)


def test_nothing_is_left_when_all_that_watch_are_killed_at_once(vllm: Service) -> None:
    """Last: guard, supervisor, front and gateway end at once; nobody is left to end the rest."""
    behind = children(vllm)
    front = psutil.Process(vllm.engine()["pid"])
    assert behind
    mapped = {each.path for process in behind for each in process.memory_maps()}
    shared = [Path(path) for path in mapped if path.startswith("/dev/shm/")]
    vllm.processes()  # remembers those that cannot be found later
    above = [front.parent(), psutil.Process(vllm.status()["supervisor"]["pid"])]
    gateway = [*psutil.Process(vllm.pid).children(), psutil.Process(vllm.pid)]
    for process in [*gateway, *above, front]:
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
    assert not wait_for_exit(behind, 5)
    eventually(lambda: not any(path.exists() for path in shared))
