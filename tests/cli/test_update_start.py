"""Updates without a service, at its start, and of a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.updates import HEADERS, KEY, RequestLoop, engine, publish, runner, variables
from tests.download.hubs import File, Hub, hub
from tests.download.test_download import FILE, REPO, is_whole
from tests.models.gguf_files import gguf_bytes
from tests.service import ROOT, Service
from tests.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def source() -> Iterator[Hub]:
    with hub() as server:
        yield server


def test_without_a_service_updates_are_made_by_the_command_itself(
    source: Hub, tmp_path: Path
) -> None:
    publish(source, 1, context=1000)
    run = runner(tmp_path, {**variables(source, tmp_path / "models"), "PORT": "9"})
    run("pull", f"hf:{REPO}", "--name", "tiny")
    publish(source, 2, context=2000)
    output = run("update", "--check", code=10).stdout
    assert "1" * 12 in output and "2" * 12 in output
    assert "Updated tiny to 222222222222" in run("update", "tiny").stdout
    assert is_whole(tmp_path / "models" / "tiny")
    run("update", "--rollback", "tiny")
    assert json.loads(run("list", "--json").stdout)[0]["revision"] == "1" * 40


def test_a_service_that_starts_during_an_update_puts_it_in_place(
    source: Hub, tmp_path: Path
) -> None:
    publish(source, 1, context=1000)
    env = variables(source, tmp_path / "models")
    runner(tmp_path, {**env, "PORT": "9"})("pull", f"hf:{REPO}", "--name", "tiny")
    publish(source, 2, context=2000)
    source.repositories[REPO][FILE].content += bytes(2000)
    more = {"DEFAULT_MODEL": "tiny", "API_KEYS": KEY}
    service = Service(["run.py", "--no-fetch"], tmp_path, {**env, **more})
    source.gate.clear()
    source.requests.clear()
    run = runner(tmp_path, {**env, "PORT": str(service.port)})
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run, "update")
        eventually(lambda: source.requests)
        with service:
            assert engine(service)["context"] == 1000
            source.gate.set()
            assert "Updated tiny to" in done.result().stdout
            assert engine(service)["context"] == 2000
            status = service.json("/v1/system/status", headers=HEADERS)
            assert status["handovers"][-1]["cause"] == "update"


def test_llama_cpp_takes_a_new_version_and_keeps_the_old_one_when_it_is_none(
    source: Hub, tmp_path: Path
) -> None:
    path = next((ROOT / "models" / "smollm2-135m").glob("*.gguf"), None)
    if path is None:
        pytest.skip("the embedded model is not here")
    first = path.read_bytes()
    name = b"smollm2 135M" if b"smollm2 135M" in first[:4000] else b"Smollm2 135M"
    env = {**variables(source, tmp_path / "models"), "INFERENCE_ENGINE": "llama_cpp"}
    source.repositories[REPO] = {FILE: File(first)}
    source.commit = "1" * 40
    runner(tmp_path, env)("pull", f"hf:{REPO}", "--name", "tiny")
    env |= {"DEFAULT_MODEL": "tiny", "API_KEYS": KEY}
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        run = runner(tmp_path, {**env, "PORT": str(service.port)})
        old = engine(service)["pid"]
        # A header that can be read, and no weights.
        source.repositories[REPO], source.commit = {FILE: File(gguf_bytes())}, "2" * 40
        with RequestLoop(service) as asking:
            assert "still serves the model" in run("update", code=1).stderr
            assert engine(service)["pid"] == old
            changed = first.replace(name, name.swapcase(), 1)
            assert changed != first
            source.repositories[REPO], source.commit = {FILE: File(changed)}, "3" * 40
            run("update")
            assert engine(service)["pid"] != old
            before = len(asking.answers)
            eventually(lambda: len(asking.answers) > before)
        assert set(asking.answers) == {200}
        assert (tmp_path / "models" / "tiny" / FILE).read_bytes() == changed
