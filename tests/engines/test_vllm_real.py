"""The whole service with a real vLLM; skipped where there is none.

VLLM_PYTHON names an interpreter that has vLLM; `make test ENGINES=all` makes one. Its start takes
most of a minute, so all tests share one, and those that kill it come last.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.api.test_chat import text_of
from tests.service import ROOT, Service, eventually
from vllm_obtain.catalogue import Catalogue
from vllm_obtain.catalogue.convert import plan
from vllm_obtain.engines.vllm_engine import Vllm
from vllm_obtain.settings import Settings

MISSING = Vllm(Settings.load({"VLLM_PYTHON": os.environ.get("VLLM_PYTHON", "")})).missing()
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=str(MISSING)), pytest.mark.timeout(400)]
CONTEXT = 1024
RESTART_SECONDS = 120
PROMPTS = [
    "What is the capital of France? Answer in one sentence.",
    "Count from one to ten.",
    "Write a haiku about the sea.",
    "What is 12 plus 30?",
    "Translate 'good morning' into Spanish.",
]
# Two tokens this close may change places by rounding alone: bfloat16 has steps of 0.125 where the
# logits are, and llama.cpp rounds its inputs to 8 bits. Seen: 3 prompts the same, 0.0 and 0.125.
ROUNDING = 0.25


@pytest.fixture(scope="session")
def models(model_here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MODELS_DIR with the embedded model as the Hugging Face folder `m`."""
    folder = tmp_path_factory.mktemp("models")
    (source,) = (ROOT / "models" / "smollm2-135m").glob("*.gguf")
    shutil.copy(source, folder)
    (model,) = Catalogue(folder).models()
    planned = plan(model, "hf")
    subprocess.run(planned.command, cwd=ROOT, check=True, capture_output=True)
    planned.folder.rename(folder / "m")
    (folder / source.name).unlink()
    return folder


@pytest.fixture(scope="session")
def vllm(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    env = {
        "MODELS_DIR": str(models),
        "INFERENCE_ENGINE": "vllm",
        "VLLM_MAX_MODEL_LEN": str(CONTEXT),
        # As on a machine with many cores: each of its processes is killed below.
        "VLLM_EXTRA_ARGS": "--api-server-count 2",
        "ENABLE_CACHING": "false",
    }
    made = Service(["run.py", "--no-fetch"], tmp_path_factory.mktemp("vllm"), env)
    try:
        made.start(timeout=300)
        yield made
    finally:
        made.kill_everything()


def children(service: Service) -> list[psutil.Process]:
    """The processes behind vLLM's front."""
    return psutil.Process(service.engine()["pid"]).children(recursive=True)


def test_chat_stream_and_plain_are_the_same_text(vllm: Service) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0}
    plain = vllm.json("/v1/chat/completions", body)
    streamed = vllm.request("/v1/chat/completions", {**body, "stream": True})[2]
    assert text_of(streamed) == plain["choices"][0]["message"]["content"]
    assert plain["usage"]["completion_tokens"] <= 8


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_converted_model_says_what_the_file_says(
    vllm: Service, service: Service, prompt: str
) -> None:
    asked = {"temperature": 0, "max_tokens": 16, "logprobs": True, "top_logprobs": 5}
    ours, theirs = (_tokens(each.chat(prompt, **asked)) for each in (vllm, service))
    for mine, other in zip(ours, theirs, strict=False):
        if mine["token"] == other["token"]:
            continue
        likely = {top["token"]: top["logprob"] for top in mine["top_logprobs"]}
        gap = mine["logprob"] - likely.get(other["token"], float("-inf"))
        assert gap < ROUNDING, (mine, other)
        return  # from here on they answer different texts
    assert len(ours) == len(theirs)


def _tokens(answer: Any) -> Any:
    return answer["choices"][0]["logprobs"]["content"]


def test_a_seed_gives_the_same_answer_twice(vllm: Service) -> None:
    answers = [vllm.chat(seed=7, temperature=1.0)["choices"] for _ in range(2)]
    assert answers[0] == answers[1]


def test_logprobs_come_in_both_formats(vllm: Service) -> None:
    chat = vllm.chat(logprobs=True, top_logprobs=2, max_tokens=2)["choices"][0]["logprobs"]
    assert [len(entry["top_logprobs"]) for entry in chat["content"]] == [2, 2]
    body = {"prompt": "Hello", "max_tokens": 2, "logprobs": 1}
    text = vllm.json("/v1/completions", body)["choices"][0]["logprobs"]
    assert len(text["tokens"]) == 2 and all(len(top) == 1 for top in text["top_logprobs"])


@pytest.mark.parametrize("limit", [{}, {"max_tokens": CONTEXT}, {"max_tokens": 10**6}])
def test_an_answer_ends_with_the_context(vllm: Service, limit: dict[str, Any]) -> None:
    body = {"prompt": [5] * (CONTEXT - 20), "logit_bias": {"0": -100, "2": -100}, **limit}
    answer = vllm.json("/v1/completions", body)
    assert answer["usage"]["total_tokens"] <= CONTEXT
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")


@pytest.mark.parametrize("prompt", [[5] * CONTEXT, "hello world " * 2000, "a b " * 200_000])
def test_a_prompt_that_is_too_long_is_told_with_the_context(vllm: Service, prompt: Any) -> None:
    status, _, body = vllm.request("/v1/completions", {"prompt": prompt})
    error = json.loads(body)["error"]
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")
    assert f"context is {CONTEXT} tokens" in error["message"]


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
    _, left = psutil.wait_procs([front, *behind], timeout=5)
    assert not left
    body = {"prompt": "Hello", "max_tokens": 4}
    answer = vllm.json("/v1/completions", body, timeout=RESTART_SECONDS)
    assert answer["usage"]["completion_tokens"] > 0
    for stream in streams:
        stream.join(RESTART_SECONDS)
        assert not stream.is_alive()
    crashes = [line for line in vllm.logged("errors.log") if line["event"] == "engine crashed"]
    assert len(crashes) == restarts + 1


def _long_stream(service: Service) -> None:
    body = {"prompt": [5] * 20, "max_tokens": 200, "logit_bias": {"0": -100, "2": -100}}
    service.request("/v1/completions", {**body, "stream": True}, timeout=RESTART_SECONDS)


def test_nothing_is_left_when_all_that_watch_are_killed_at_once(vllm: Service) -> None:
    """Last: guard, supervisor, front and gateway end at once; nobody is left to end the rest."""
    behind = children(vllm)
    front = psutil.Process(vllm.engine()["pid"])
    assert behind
    vllm.processes()  # remembers those that cannot be found later
    above = [front.parent(), psutil.Process(vllm.status()["supervisor"]["pid"])]
    gateway = [*psutil.Process(vllm.pid).children(), psutil.Process(vllm.pid)]
    for process in [*gateway, *above, front]:
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(behind, timeout=5)
    assert not left
