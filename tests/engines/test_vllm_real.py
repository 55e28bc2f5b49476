"""The whole service with a real vLLM; skipped where there is none.

VLLM_PYTHON names an interpreter that has vLLM, VLLM_TEST_MODEL a small Hugging Face folder.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.api.test_chat import text_of
from tests.service import Service, eventually
from vllm_obtain.engines.vllm_engine import Vllm
from vllm_obtain.settings import Settings

FOLDER = os.environ.get("VLLM_TEST_MODEL", "")
MISSING = Vllm(Settings.load({"VLLM_PYTHON": os.environ.get("VLLM_PYTHON", "")})).missing() or (
    "VLLM_TEST_MODEL names no Hugging Face folder" if not Path(FOLDER or "-").is_dir() else ""
)
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.timeout(400)]
CONTEXT = 1024


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "models").mkdir()
    # Links that lead out of MODELS_DIR are not followed, so the files themselves are linked in.
    (folder / "models" / "m").mkdir()
    for file in Path(FOLDER).iterdir():
        os.link(file, folder / "models" / "m" / file.name)
    env = {
        "MODELS_DIR": str(folder / "models"),
        "INFERENCE_ENGINE": "vllm",
        "VLLM_MAX_MODEL_LEN": str(CONTEXT),
        "ENABLE_CACHING": "false",
    }
    made = Service(["run.py", "--no-fetch"], folder, env)
    try:
        made.start(timeout=300)
        yield made
    finally:
        made.kill_everything()


def engine_tree(service: Service) -> list[psutil.Process]:
    """vLLM's processes; they rename themselves, which hides the mark in their environment."""
    engine = psutil.Process(service.engine()["pid"])
    return [engine, *engine.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that nobody has collected yet does not."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_chat_stream_and_plain_are_the_same_text(vllm: Service) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0}
    plain = vllm.json("/v1/chat/completions", body)
    streamed = vllm.request("/v1/chat/completions", {**body, "stream": True})[2]
    assert text_of(streamed) == plain["choices"][0]["message"]["content"]
    assert plain["usage"]["completion_tokens"] <= 8


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


def test_a_killed_core_is_noticed_restarted_and_leaves_nothing(vllm: Service) -> None:
    tree = engine_tree(vllm)
    core = next(process for process in tree if "EngineCor" in process.name())
    core.kill()
    eventually(lambda: vllm.status()["engines"][0]["restarts"] == 1, timeout=5)
    eventually(lambda: not alive(tree), timeout=5)
    eventually(lambda: vllm.status()["engines"][0]["state"] == "ready", timeout=120)
    assert vllm.chat()["choices"]


def test_unload_leaves_no_process(vllm: Service) -> None:
    tree = engine_tree(vllm)
    vllm.json("/v1/models/unload", {"model_name": "m"})
    eventually(lambda: not alive(tree), timeout=5)
