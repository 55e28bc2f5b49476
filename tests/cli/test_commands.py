"""Each command about models, as a user types it, with a service that runs and without one."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.download.hubs import File, Hub, hub
from tests.download.test_download import FILE, REPO, is_whole
from tests.models.gguf_files import write_gguf
from tests.service import ROOT, Service
from tests.waiting import eventually

pytestmark = pytest.mark.slow

KEY = "vo-0123456789abcdef0123456789abcdef"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def source() -> Iterator[Hub]:
    with hub() as server:
        yield server


@pytest.fixture(scope="module")
def hub_service(source: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("commands")
    write_gguf(folder / "models" / "alpha.gguf")
    write_gguf(folder / "made.gguf")
    source.repositories[REPO] = {FILE: File((folder / "made.gguf").read_bytes())}
    env = {**variables(source, folder / "models"), "DEFAULT_MODEL": "alpha", "API_KEYS": KEY}
    with Service(["run.py", "--no-fetch"], folder, env) as service:
        yield service


def variables(source: Hub, models: Path) -> dict[str, str]:
    return {
        "MODELS_DIR": str(models),
        "HF_ENDPOINT": source.url,
        "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9",
        "INFERENCE_ENGINE": "fake",
        "EXTRA_ENGINES": "fake=tests.fake_engine:FakeAdapter,other=tests.fake_engine:OtherAdapter",
    }


@pytest.fixture
def run(hub_service: Service, source: Hub, tmp_path: Path) -> Run:
    """Types a command in an empty folder, on the machine of the service or another."""

    def type_(
        *words: str, here: bool = True, code: int = 0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **(env or {}), "PYTHONPATH": str(ROOT)}
        env |= variables(source, tmp_path / "models")
        if here:
            more = {"MODELS_DIR": str(hub_service.folder / "models"), "PORT": str(hub_service.port)}
            env |= {**more, "API_KEYS": KEY}
        command = [sys.executable, "-m", "vllm_obtain", *words]
        result = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result

    return type_


def read(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def test_pull_list_show_verify_and_rm_without_a_service(run: Run, tmp_path: Path) -> None:
    done = run("pull", f"hf:{REPO}", "--name", "tiny", here=False)
    folder = tmp_path / "models" / "tiny"
    assert done.stdout == f"Downloaded tiny to {folder}\n" and is_whole(folder)
    (listed,) = read(run("list", "--json", here=False))
    assert (listed["id"], listed["source"]) == ("tiny", f"hf:{REPO}")
    assert read(run("show", "tiny", "--json", here=False))["path"].endswith(FILE)
    assert "tiny: OK" in run("verify", here=False).stdout
    (folder / FILE).write_bytes(b"spoiled")
    assert "has 7 bytes instead of" in run("verify", "tiny", here=False, code=1).stdout
    assert "tiny" in run("rm", "tiny", "--yes", here=False).stdout
    assert not folder.exists()
    assert "does not exist" in run("rm", "tiny", "-y", here=False, code=1).stderr


def test_pull_tells_programs_how_far_it_is(run: Run) -> None:
    lines = run("pull", f"hf:{REPO}", "--json", here=False).stdout.splitlines()
    stages = [json.loads(each)["stage"] for each in lines]
    assert stages[0] == "looking" and stages[-1] == "done"


def test_what_cannot_be_pulled_is_one_sentence_and_exit_code_1(run: Run) -> None:
    done = run("pull", "qwen3-8bb", here=False, code=1)
    assert "Did you mean" in done.stderr and "Traceback" not in done.stderr
    run("pull", here=False, code=2)


def test_the_names_that_can_be_pulled(run: Run) -> None:
    known = {each["id"]: each for each in read(run("list", "--all", "--json"))}
    assert known["qwen3-8b"]["here"] is False and known["qwen3-8b"]["licence"] == "Apache-2.0"
    assert "qwen3-8b" in run("list", "--all").stdout
    output = run("show", "qwen3-8b").stdout
    assert "context        40,960 tokens" in output and "chat template  ChatML" in output
    assert "hf:Qwen/Qwen3-8B-GGUF" in output and "vllm-obtain pull qwen3-8b" in output
    assert "Unknown model 'no-such'" in run("show", "no-such", code=1).stderr


def test_a_service_elsewhere_pulls_lists_shows_and_removes(run: Run, hub_service: Service) -> None:
    there = ("--url", hub_service.url, "--key", KEY)
    pulled = run("pull", f"hf:{REPO}", "--name", "far", *there, here=False).stdout
    assert pulled == f"Downloaded far to {hub_service.url}\n"
    assert is_whole(hub_service.folder / "models" / "far")
    ids = {each["id"] for each in read(run("list", "--json", *there, here=False))}
    assert {"alpha", "far"} <= ids
    assert read(run("show", "far", "--json", *there, here=False))["id"] == "far"
    assert "Removed far" in run("rm", "far", "-y", *there, here=False).stdout
    assert not (hub_service.folder / "models" / "far").exists()
    refused = run("list", "--url", hub_service.url, here=False, code=1).stderr
    assert "VLLM_OBTAIN_KEY" in refused and "Traceback" not in refused
    silent = run("list", "--url", "http://127.0.0.1:9", here=False, code=1).stderr
    assert "Cannot reach" in silent


def test_load_ps_switch_unload_and_status(run: Run) -> None:
    assert run("load", "alpha").stdout == "alpha on fake: ready\n"
    (loaded,) = read(run("ps", "--json"))
    assert (loaded["model"], loaded["state"]) == ("alpha", "ready")
    assert "alpha" in run("ps").stdout and "alpha on fake: ready" in run("status").stdout
    # What a service has loaded is not removed under it, by whatever way.
    assert "is in use" in run("rm", "alpha", "-y", code=1).stderr
    assert run("switch", "alpha", "other").stdout == "alpha on other: ready\n"
    assert run("unload", "alpha").stdout == "alpha on other: stopped\n"
    assert read(run("ps", "--json")) == []
    assert read(run("status", "--json"))["version"]
    assert "Cannot reach" in run("ps", "--url", "http://127.0.0.1:9", code=1).stderr


def test_a_model_of_this_machine_is_removed_by_its_service(run: Run, hub_service: Service) -> None:
    write_gguf(hub_service.folder / "models" / "gone.gguf")
    assert "gone.gguf" in run("rm", "gone", "-y").stdout
    eventually(lambda: "gone" not in {m["id"] for m in models(hub_service)})


def models(service: Service) -> list[Any]:
    key = {"Authorization": f"Bearer {KEY}"}
    return list(json.loads(service.request("/v1/models", headers=key)[2])["data"])


def test_help_shows_every_command_and_starts_fast(run: Run) -> None:
    output = run("--help").stdout
    for word in "serve stop status doctor pull list show verify rm ps load unload switch".split():
        assert f" {word} " in output
    assert "Exit codes" in output
    heavy = "{'flask', 'huggingface_hub', 'modelscope_hub', 'psutil', 'gevent'}"
    code = f"import sys, vllm_obtain.cli; print(sorted({heavy} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_run_answers_one_question(run: Run) -> None:
    assert run("run", "alpha", "one", "two", "three").stdout == "one two three \n"
    elsewhere = run("run", "alpha", "one", "--url", "http://127.0.0.1:9", here=False, code=1)
    assert "Cannot reach" in elsewhere.stderr
    unknown = run("run", "beta", "one", code=1)
    assert "'beta' does not exist" in unknown.stderr and not unknown.stdout


def test_run_holds_a_conversation(hub_service: Service, source: Hub, tmp_path: Path) -> None:
    """In a terminal: the second question comes with the first and its answer."""
    leader, follower = pty.openpty()
    env = {**os.environ, **variables(source, tmp_path), "PYTHONPATH": str(ROOT)}
    env |= {"PORT": str(hub_service.port), "API_KEYS": KEY, "TERM": "dumb"}
    command = [sys.executable, "-m", "vllm_obtain", "run", "alpha", "--system", "Be brief."]
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdin=follower, stdout=follower, stderr=follower
    ) as talking:
        os.close(follower)
        assert "/bye" in _read_until(leader, ">>> ")
        os.write(leader, b"first question\n")
        assert "first question \r\n" in _read_until(leader, ">>> ")
        os.write(leader, b"/new\n")
        _read_until(leader, ">>> ")
        os.write(leader, b"/bye\n")
        assert talking.wait(10) == 0
    os.close(leader)


def _read_until(terminal: int, text: str) -> str:
    seen = ""
    while not seen.endswith(text):
        seen += os.read(terminal, 1000).decode()
    return seen


def test_logs_are_readable(run: Run, hub_service: Service, tmp_path: Path) -> None:
    env = {"LOG_DIR": str(hub_service.folder / "logs")}
    output = run("logs", "models", "-n", "500", env=env).stdout
    assert "model loaded" in output and "engine_pid=" in output and "model=alpha" in output
    assert len(run("logs", "models", "-n", "1", env=env).stdout.splitlines()) == 1
    (line,) = run("logs", "models", "-n", "1", "--json", env=env).stdout.splitlines()
    assert json.loads(line)["logger"] == "vllm_obtain.models"
    missing = run("logs", env={"LOG_DIR": str(tmp_path / "none")}, code=1)
    assert "ENABLE_LOG_FILE" in missing.stderr
