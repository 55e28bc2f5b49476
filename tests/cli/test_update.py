"""Updates under a running service: it answers throughout, and keeps what it has when they fail."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.cli.updates import (
    HEADERS,
    KEY,
    RequestLoop,
    Run,
    engine,
    models,
    publish,
    runner,
    variables,
)
from tests.download.format_adapter import model
from tests.download.hubs import Faults, File, Hub, hub
from tests.download.test_download import FILE, REPO, is_whole
from tests.service import Service
from tests.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source() -> Iterator[Hub]:
    with hub() as server:
        yield server


@pytest.fixture(scope="module")
def update_service(source: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("update")
    publish(source, 1, context=1000, pace=0.02)
    run = runner(folder, variables(source, folder / "models"))
    run("pull", f"hf:{REPO}", "--name", "tiny")
    env = {**variables(source, folder / "models"), "DEFAULT_MODEL": "tiny", "API_KEYS": KEY}
    with Service(["run.py", "--no-fetch"], folder, env) as service:
        yield service


@pytest.fixture
def run(update_service: Service, source: Hub, tmp_path: Path) -> Run:
    """Types a command on the machine of the service."""
    env = variables(source, models(update_service))
    return runner(tmp_path, {**env, "PORT": str(update_service.port), "API_KEYS": KEY})


@pytest.fixture
def run_remote(update_service: Service, tmp_path: Path) -> Run:
    """Types a command on another machine, for the service."""
    run = runner(tmp_path, {"MODELS_DIR": str(tmp_path / "none"), "PORT": "9"})
    return lambda *words, **more: run(*words, "--url", update_service.url, "--key", KEY, **more)


@pytest.fixture(autouse=True)
def calm(source: Hub) -> Iterator[None]:
    yield
    source.gate.set()
    source.faults = Faults()


def pulls(service: Service) -> list[Any]:
    return list(service.json("/v1/models/pulls", headers=HEADERS)["data"])


def send(service: Service, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), HEADERS)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def chat(service: Service, text: str = "Hi", **more: Any) -> bytes:
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}
    status, _, answer = service.request("/v1/chat/completions", body, HEADERS)
    assert status == 200, answer
    return answer


def test_a_model_that_is_served_is_updated_and_rolled_back_while_it_answers(
    update_service: Service, source: Hub, run: Run, run_remote: Run
) -> None:
    (found,) = json.loads(run("update", "--check", "--json").stdout)
    assert (found["name"], found["state"]) == ("tiny", "current")
    # A test before may have brought it up to date.
    first = engine(update_service)
    publish(source, 2, template="Dear model: {{ messages[0].content }}", context=2000)
    for type_ in (run, run_remote):
        output = type_("update", "--check", code=10).stdout
        assert "tiny" in output and "1 changed" in output
    assert engine(update_service)["pid"] == first["pid"]
    with RequestLoop(update_service) as asking, ThreadPoolExecutor(1) as pool:
        # One that the old engine has is finished by it.
        long = pool.submit(chat, update_service, "word " * 120, stream=True)
        eventually(lambda: engine(update_service)["in_flight"] > 1)
        assert "Updated tiny to" in run("update").stdout
        second = engine(update_service)
        assert (second["context"], first["context"]) == (2000, 1000)
        assert second["pid"] != first["pid"]
        assert long.result().count(b"word ") == 120 and b"[DONE]" in long.result()
        # The new version talks in its own way, in every process.
        assert b"Dear model: Hi" in chat(update_service)
        assert "Rolled back tiny" in run_remote("update", "--rollback", "tiny").stdout
        assert engine(update_service)["context"] == 1000
        before = len(asking.answers)
        eventually(lambda: len(asking.answers) > before + 3)
    assert set(asking.answers) == {200} and asking.longest < 5
    assert is_whole(models(update_service) / "tiny")
    (handover, _) = update_service.json("/v1/system/status", headers=HEADERS)["handovers"][-2:]
    assert (handover["cause"], handover["reason"]) == ("update", "The model has new files.")
    assert "Updated tiny to" in run_remote("update", "tiny").stdout
    assert engine(update_service)["context"] == 2000
    os.kill(engine(update_service)["pid"], signal.SIGKILL)
    assert chat(update_service)
    assert engine(update_service)["context"] == 2000
    # Nothing is left but what is kept on purpose, and the engine finds its files again.
    left = {
        each.name for each in models(update_service).iterdir() if not each.name.endswith(".lock")
    }
    assert left == {"tiny", ".previous-tiny"}
    assert send(update_service, "POST", "/v1/models/unload", {"model_name": "tiny"})[0] == 200
    assert send(update_service, "POST", "/v1/models/load", {"model_name": "tiny"})[0] == 200
    assert engine(update_service)["context"] == 2000


def test_a_version_that_does_not_load_leaves_the_old_one_served(
    update_service: Service, source: Hub, run: Run
) -> None:
    before = engine(update_service)
    manifest = (models(update_service) / "tiny" / ".vllm-obtain.json").read_bytes()
    publish(source, 3, context=3000, exit_at_start=3)
    with RequestLoop(update_service) as asking:
        done = run("update", "--json", code=1)
        (told,) = json.loads(done.stdout)
        assert told["state"] == "failed" and "still serves the model" in told["error"]
        assert "Traceback" not in done.stderr
    assert set(asking.answers) == {200}
    assert engine(update_service)["pid"] == before["pid"]
    assert (models(update_service) / "tiny" / ".vllm-obtain.json").read_bytes() == manifest
    # It is asked for again, and not fetched again.
    source.requests.clear()
    status, answer = send(
        update_service, "POST", "/v1/models/update", {"model": "tiny", "stream": False}
    )
    assert (status, answer["error"]["code"]) == (503, "model_load_failed")
    assert source.requests == []
    publish(source, 4, context=4000)
    run("update")
    assert engine(update_service)["context"] == 4000


def test_a_service_killed_while_a_new_version_loads_has_the_old_one(
    update_service: Service, source: Hub
) -> None:
    before = engine(update_service)["context"]
    gate = update_service.folder / "gate"
    publish(source, 8, context=1800, slow_start=gate)
    with ThreadPoolExecutor(1) as pool:
        updating = pool.submit(
            send, update_service, "POST", "/v1/models/update", {"model": "tiny", "stream": False}
        )
        eventually(lambda: "loading" in {each["status"] for each in pulls(update_service)})
        assert chat(update_service)
        status = update_service.json("/v1/system/status", headers=HEADERS)
        os.kill(status["supervisor"]["pid"], signal.SIGKILL)
        assert updating.result()[0] != 200
    assert chat(update_service) and engine(update_service)["context"] == before
    gate.touch()
    status, answer = send(
        update_service, "POST", "/v1/models/update", {"model": "tiny", "stream": False}
    )
    assert (status, answer["status"]) == (200, "success")
    assert engine(update_service)["context"] == 1800


def test_a_model_that_nobody_has_loaded_is_only_replaced(
    update_service: Service, source: Hub, run: Run
) -> None:
    send(update_service, "POST", "/v1/models/unload", {"model_name": "tiny"})
    publish(source, 5, context=1500)
    assert "Updated tiny to" in run("update", "--no-keep").stdout
    assert not [
        e for e in update_service.json("/v1/system/status", headers=HEADERS)["engines"] if e["pid"]
    ]
    assert not (models(update_service) / ".previous-tiny").exists()
    assert "No previous version" in run("update", "--rollback", "tiny", code=1).stderr
    assert send(update_service, "POST", "/v1/models/load", {"model_name": "tiny"})[0] == 200
    assert engine(update_service)["context"] == 1500


def test_a_new_version_mends_a_model_that_does_not_load(
    update_service: Service, source: Hub
) -> None:
    files = source.repositories["owner/sick-GGUF"] = {"sick.gguf": File(model(exit_at_start=3))}
    body = {"model": "hf:owner/sick-GGUF:sick.gguf", "stream": False}
    assert send(update_service, "POST", "/v1/models/pull", body)[0] == 200
    assert send(update_service, "POST", "/v1/models/load", {"model_name": "sick"})[0] == 503
    files["sick.gguf"] = File(model(context=600))
    status, answer = send(
        update_service, "POST", "/v1/models/update", {"model": "sick", "stream": False}
    )
    assert (status, answer["status"]) == (200, "success")
    assert send(update_service, "POST", "/v1/models/load", {"model_name": "sick"})[0] == 200
    assert send(update_service, "POST", "/v1/models/unload", {"model_name": "sick"})[0] == 200
    assert send(update_service, "DELETE", "/v1/models/sick")[1]["paths"] == [
        "sick",
        ".previous-sick",
    ]
    # It took the place of the other one.
    assert send(update_service, "POST", "/v1/models/load", {"model_name": "tiny"})[0] == 200


def test_progress_comes_as_events_and_an_update_is_called_off(
    update_service: Service, source: Hub
) -> None:
    publish(source, 6, context=1600)
    source.repositories[REPO][FILE].content += bytes(2000)
    connection = http.client.HTTPConnection("127.0.0.1", update_service.port, timeout=60)
    body = json.dumps({"model": "tiny"})
    source.gate.clear()
    connection.request("POST", "/v1/models/update", body, HEADERS)
    answer = connection.getresponse()
    first = event(answer)
    assert (first["task"], first["status"]) == ("update", "downloading")
    assert (
        send(update_service, "DELETE", f"/v1/models/pull/{first['id']}")[1]["status"] == "cancelled"
    )
    connection.close()
    source.gate.set()
    connection.request("POST", "/v1/models/update", body, HEADERS)
    answer = connection.getresponse()
    events = []
    while (said := event(answer)) is not None:
        events.append(said)
    connection.close()
    statuses = [each["status"] for each in events]
    assert "loading" in statuses and statuses[-1] == "success"
    assert engine(update_service)["context"] == 1600
    # Again there is nothing to do.
    status, last = send(
        update_service, "POST", "/v1/models/update", {"model": "tiny", "stream": False}
    )
    assert (status, last["status"], last["detail"]) == (200, "success", CURRENT)


CURRENT = "The model is up to date."


def event(answer: http.client.HTTPResponse) -> Any:
    while True:
        line = answer.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: "):
            return None if b"[DONE]" in line else json.loads(line[6:])


def test_what_cannot_be_updated_says_why(
    update_service: Service, run: Run, run_remote: Run
) -> None:
    for path in ("update", "rollback"):
        status, answer = send(update_service, "POST", f"/v1/models/{path}", {"model": "nope"})
        assert (status, answer["error"]["code"]) == (404, "model_not_fetched")
    status, answer = send(update_service, "GET", "/v1/models/updates?nmae=tiny")
    assert (status, answer["error"]["param"]) == (400, "nmae")
    assert update_service.request("/v1/models/updates")[0] == 401
    assert "was not downloaded" in run("update", "nope", code=1).stderr
    assert "was not downloaded" in run_remote("update", "nope", "--check", code=1).stderr
    run("update", "tiny", "--rollback", "tiny", code=2)


def test_check_for_cron_tells_current_updates_and_failure_apart(
    update_service: Service, source: Hub, run: Run
) -> None:
    script = "scripts/update_models.py"
    run("update")
    assert run("--check", script=script).returncode == 0
    publish(source, 7, context=1700)
    assert "update" in run("--check", code=10, script=script).stdout
    source.faults.status = 503
    assert "unreachable" in run("--check", code=1, script=script).stdout
    assert engine(update_service)["context"] != 1700


def test_verify_on_another_machine(update_service: Service, run: Run, run_remote: Run) -> None:
    assert run_remote("verify").stdout == "tiny: OK\n"
    file = models(update_service) / "tiny" / FILE
    whole = file.read_bytes()
    file.unlink()  # the version before may be the same file on the disk
    file.write_bytes(whole[:-1] + b"?")
    try:
        output = run_remote("verify", "tiny", "--json", code=1).stdout
        assert "wrong checksum" in json.loads(output)[0]["faults"][0]
        assert "wrong checksum" in run("verify", code=1).stdout
    finally:
        file.write_bytes(whole)
    assert "was not downloaded" in run_remote("verify", "nope", code=1).stderr


def test_ollamas_client_pulls_updates_and_deletes(update_service: Service, source: Hub) -> None:
    client = ollama.Client(update_service.url, headers=HEADERS)
    source.repositories["owner/other-GGUF"] = {
        "other-Q4_K_M.gguf": File(model(context=700)),
        "other-Q8_0.gguf": File(model(context=800)),
    }
    assert client.pull("hf.co/owner/other-GGUF:Q8_0").status == "success"
    folder = models(update_service) / "other-GGUF"
    assert [each.name for each in folder.glob("*.gguf")] == ["other-Q8_0.gguf"]
    # What is here already is brought up to date, as Ollama does.
    source.repositories["owner/other-GGUF"]["other-Q8_0.gguf"] = File(model(context=900))
    *_, last = client.pull("hf.co/owner/other-GGUF:Q8_0", stream=True)
    assert last.status == "success" and is_whole(folder)
    assert b"900" in (folder / "other-Q8_0.gguf").read_bytes()
    assert client.delete("other-GGUF:latest").status == "success"
    assert not folder.exists() and not (models(update_service) / ".previous-other-GGUF").exists()
    with pytest.raises(ollama.ResponseError, match="is in use"):
        client.delete("tiny")
