"""A chat template is a program of a model; it stops neither a worker nor the supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chat.test_sandbox import LOOPS
from tests.fake_engine import ENVIRONMENT, write_model
from tests.models.gguf_files import TINY, write_gguf
from tests.service import ROOT, Service
from tests.waiting import eventually

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
BOMBS = {"loops": LOOPS, "memory": "{{ 'x' * 10 ** 9 }}"}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("bombs")
    models = folder / "models"
    models.mkdir()
    write_model(models, "fine")
    for name, template in BOMBS.items():
        write_gguf(models / f"{name}.gguf", {**TINY, "tokenizer.chat_template": template})
        write_model(models, name)
    env = {"MODELS_DIR": str(models), "DEFAULT_MODEL": "fine", "WORKERS": "1"}
    env["XDG_CACHE_HOME"] = str(folder / "cache")
    with Service(["run.py", "--no-fetch"], folder, {**ENVIRONMENT, **env}) as service:
        yield service


def sandboxes(service: Service) -> list[psutil.Process]:
    return [each for each in service.processes() if is_sandbox(each)]


def is_sandbox(process: psutil.Process) -> bool:
    try:
        return any("sandbox_worker" in part for part in process.cmdline())
    except psutil.Error:
        return False


def slowest_health(service: Service, until: threading.Event) -> float:
    slowest = 0.0
    while not until.is_set():
        began = time.monotonic()
        assert service.request("/health")[0] == 200
        slowest = max(slowest, time.monotonic() - began)
    return slowest


def test_a_template_in_the_folder_does_not_stop_a_worker(bombs: Service) -> None:
    done, answers = threading.Event(), []

    def listing() -> None:
        for _ in range(3):
            answers.append(bombs.json("/v1/models"))
        done.set()

    thread = threading.Thread(target=listing)
    thread.start()
    slowest = slowest_health(bombs, done)
    thread.join()
    assert slowest < 1
    models = {model["id"]: model for model in answers[-1]["data"]}
    assert models["fine"]["capabilities"]["chat_template"] == "own"
    assert models["loops"]["capabilities"] is None
    # What is known is not examined again.
    began = time.monotonic()
    bombs.json("/v1/models")
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("name", BOMBS)
def test_a_chat_with_such_a_model_is_refused_and_others_go_on(bombs: Service, name: str) -> None:
    status, _, body = bombs.request("/v1/chat/completions", {**CHAT, "model": name})
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (400, "chat_template_error")
    assert f"'{name}'" in error["message"] and "'chat_template'" in error["message"]
    assert bombs.request("/v1/chat/completions", {**CHAT, "model": "fine"})[0] == 200


def test_the_supervisor_loads_such_a_model(bombs: Service) -> None:
    began = time.monotonic()
    assert bombs.request("/v1/models/load", {"model_name": "loops"})[0] == 200
    assert bombs.status()["supervisor"]["pid"]
    assert time.monotonic() - began < 20
    status, _, _ = bombs.request("/v1/completions", {"model": "loops", "prompt": "Hi"})
    assert status == 200


def test_llama_cpp_does_not_run_it_either(model_here: None, tmp_path: Path) -> None:
    from tests.vision.model import write_text_model

    (source,) = (ROOT / "models" / "smollm2-135m").rglob("*.gguf")
    write_text_model(tmp_path / "models" / "loops.gguf", source, template=LOOPS)
    env = {"MODELS_DIR": str(tmp_path / "models"), "INFERENCE_ENGINE": "llama_cpp"}
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        status, _, body = service.request("/v1/completions", {"prompt": "Hi", "max_tokens": 2})
        assert status == 200, body


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")
def test_a_stopped_process_ends_with_its_worker(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write_model(tmp_path / "models", "fine")
    env = {**ENVIRONMENT, "MODELS_DIR": str(tmp_path / "models"), "WORKERS": "1"}
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        assert service.request("/v1/chat/completions", CHAT)[0] == 200
        (stopped,) = sandboxes(service)
        stopped.suspend()
        os.kill(stopped.ppid(), signal.SIGKILL)
        stopped.wait(5)


def test_no_process_is_left(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_gguf(models / "loops.gguf", {**TINY, "tokenizer.chat_template": LOOPS})
    write_model(models, "loops")
    env = {**ENVIRONMENT, "MODELS_DIR": str(models), "XDG_CACHE_HOME": str(tmp_path)}
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        assert service.request("/v1/models/load", {"model_name": "loops"})[0] == 200

        def chat() -> None:
            with contextlib.suppress(OSError):  # the service stops meanwhile
                service.request("/v1/chat/completions", CHAT)

        thread = threading.Thread(target=chat)
        thread.start()
        eventually(lambda: any(each.cpu_times().user > 0.3 for each in sandboxes(service)))
        command = [sys.executable, "-m", "vllm_obtain", "stop", "--now"]
        port = {"PORT": str(service.port)}
        subprocess.run(command, cwd=ROOT, env={**os.environ, **port}, check=True, timeout=30)
        service.wait_until_gone()
        thread.join()
