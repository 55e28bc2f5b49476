"""Updates under a running service: it answers throughout, and keeps what it has when they fail."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.catalogue.gguf_files import gguf_bytes
from tests.fetching.hubs import Faults, File, Hub, hub
from tests.fetching.picky import model
from tests.fetching.test_fetch import FILE, REPO, is_whole
from tests.service import ROOT, Service, eventually

KEY = "vo-0123456789abcdef0123456789abcdef"
HEADERS = {"Authorization": f"Bearer {KEY}"}
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def source() -> Iterator[Hub]:
    with hub() as server:
        yield server


@pytest.fixture(scope="module")
def served(source: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("update")
    publish(source, 1, context=1000, pace=0.02)
    run = runner(folder, variables(source, folder / "models"))
    run("pull", f"hf:{REPO}", "--name", "tiny")
    env = {**variables(source, folder / "models"), "DEFAULT_MODEL": "tiny", "API_KEYS": KEY}
    with Service(["run.py", "--no-fetch"], folder, env) as made:
        yield made


@pytest.fixture
def run(served: Service, source: Hub, tmp_path: Path) -> Run:
    """Types a command on the machine of the service."""
    env = variables(source, models(served))
    return runner(tmp_path, {**env, "PORT": str(served.port), "API_KEYS": KEY})


@pytest.fixture
def elsewhere(served: Service, tmp_path: Path) -> Run:
    """Types a command on another machine, for the service."""
    run = runner(tmp_path, {"MODELS_DIR": str(tmp_path / "none"), "PORT": "9"})
    return lambda *words, **more: run(*words, "--url", served.url, "--key", KEY, **more)


@pytest.fixture(autouse=True)
def calm(source: Hub) -> Iterator[None]:
    yield
    source.gate.set()
    source.faults = Faults()


def variables(source: Hub, models: Path) -> dict[str, str]:
    return {
        "MODELS_DIR": str(models),
        "HF_ENDPOINT": source.url,
        "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9",
        "INFERENCE_ENGINE": "picky",
        "EXTRA_ENGINES": "picky=tests.fetching.picky:PickyAdapter",
    }


def runner(folder: Path, env: dict[str, str]) -> Run:
    def type_(*words: str, code: int = 0, script: str = "") -> subprocess.CompletedProcess[str]:
        start = [str(ROOT / script)] if script else ["-m", "vllm_obtain"]
        done = subprocess.run(
            [sys.executable, *start, *words],
            cwd=folder,
            env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return type_


def publish(source: Hub, number: int, **switches: Any) -> None:
    source.repositories[REPO] = {FILE: File(model(**switches))}
    source.commit = str(number) * 40


def models(service: Service) -> Path:
    return service.folder / "models"


def engine(service: Service) -> Any:
    """The engine that serves, and what it is: its context tells the version."""
    status = service.json("/v1/system/status", headers=HEADERS)
    return next(each for each in status["engines"] if each["state"] == "ready")


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


class Asking:
    """Somebody who asks the model all the time, and one whose answer takes long."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._over = threading.Event()
        self.answers: list[int] = []
        self.longest = 0.0
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asking:
        self._thread.start()
        eventually(lambda: self.answers)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        while not self._over.is_set():
            began = time.monotonic()
            self.answers.append(
                self._service.request("/v1/chat/completions", {**body, "seed": len(self.answers)},
                                      HEADERS)[0]
            )  # fmt: skip
            self.longest = max(self.longest, time.monotonic() - began)


def test_a_model_that_is_served_is_updated_and_rolled_back_while_it_answers(
    served: Service, source: Hub, run: Run, elsewhere: Run
) -> None:
    (found,) = json.loads(run("update", "--check", "--json").stdout)
    assert (found["name"], found["state"]) == ("tiny", "current")
    # A test before may have brought it up to date.
    first = engine(served)
    publish(source, 2, template="Dear model: {{ messages[0].content }}", context=2000)
    for type_ in (run, elsewhere):
        told = type_("update", "--check", code=10).stdout
        assert "tiny" in told and "1 changed" in told
    assert engine(served)["pid"] == first["pid"]
    with Asking(served) as asking, ThreadPoolExecutor(1) as pool:
        # One that the old engine has is finished by it.
        long = pool.submit(chat, served, "word " * 120, stream=True)
        eventually(lambda: engine(served)["in_flight"] > 1)
        assert "tiny is updated to" in run("update").stdout
        second = engine(served)
        assert (second["context"], first["context"]) == (2000, 1000)
        assert second["pid"] != first["pid"]
        assert long.result().count(b"word ") == 120 and b"[DONE]" in long.result()
        # The new version talks in its own way, in every process.
        assert b"Dear model: Hi" in chat(served)
        assert "is what it was before" in elsewhere("update", "--rollback", "tiny").stdout
        assert engine(served)["context"] == 1000
        before = len(asking.answers)
        eventually(lambda: len(asking.answers) > before + 3)
    assert set(asking.answers) == {200} and asking.longest < 5
    assert is_whole(models(served) / "tiny")
    (handover, _) = served.json("/v1/system/status", headers=HEADERS)["handovers"][-2:]
    assert (handover["cause"], handover["reason"]) == ("update", "The model has new files.")
    assert "tiny is updated to" in elsewhere("update", "tiny").stdout
    assert engine(served)["context"] == 2000
    os.kill(engine(served)["pid"], signal.SIGKILL)
    assert chat(served)
    assert engine(served)["context"] == 2000
    # Nothing is left but what is kept on purpose, and the engine finds its files again.
    left = {each.name for each in models(served).iterdir() if not each.name.endswith(".lock")}
    assert left == {"tiny", ".previous-tiny"}
    assert send(served, "POST", "/v1/models/unload", {"model_name": "tiny"})[0] == 200
    assert send(served, "POST", "/v1/models/load", {"model_name": "tiny"})[0] == 200
    assert engine(served)["context"] == 2000


def test_a_version_that_does_not_load_leaves_the_old_one_served(
    served: Service, source: Hub, run: Run
) -> None:
    before = engine(served)
    manifest = (models(served) / "tiny" / ".vllm-obtain.json").read_bytes()
    publish(source, 3, context=3000, exit_at_start=3)
    with Asking(served) as asking:
        done = run("update", "--json", code=1)
        (told,) = json.loads(done.stdout)
        assert told["state"] == "failed" and "serves the model as before" in told["error"]
        assert "Traceback" not in done.stderr
    assert set(asking.answers) == {200}
    assert engine(served)["pid"] == before["pid"]
    assert (models(served) / "tiny" / ".vllm-obtain.json").read_bytes() == manifest
    # It is asked for again, and not fetched again.
    source.asked.clear()
    status, answer = send(served, "POST", "/v1/models/update", {"model": "tiny", "stream": False})
    assert (status, answer["error"]["code"]) == (503, "model_load_failed")
    assert source.asked == []
    publish(source, 4, context=4000)
    run("update")
    assert engine(served)["context"] == 4000


def test_a_service_killed_while_a_new_version_loads_has_the_old_one(
    served: Service, source: Hub
) -> None:
    before = engine(served)["context"]
    gate = served.folder / "gate"
    publish(source, 8, context=1800, slow_start=gate)
    with ThreadPoolExecutor(1) as pool:
        updating = pool.submit(
            send, served, "POST", "/v1/models/update", {"model": "tiny", "stream": False}
        )
        eventually(lambda: "loading" in {each["status"] for each in pulls(served)})
        assert chat(served)
        status = served.json("/v1/system/status", headers=HEADERS)
        os.kill(status["supervisor"]["pid"], signal.SIGKILL)
        assert updating.result()[0] != 200
    assert chat(served) and engine(served)["context"] == before
    gate.touch()
    status, answer = send(served, "POST", "/v1/models/update", {"model": "tiny", "stream": False})
    assert (status, answer["status"]) == (200, "success")
    assert engine(served)["context"] == 1800


def test_a_model_that_nobody_has_loaded_is_only_replaced(
    served: Service, source: Hub, run: Run
) -> None:
    send(served, "POST", "/v1/models/unload", {"model_name": "tiny"})
    publish(source, 5, context=1500)
    assert "tiny is updated to" in run("update", "--no-keep").stdout
    assert not [e for e in served.json("/v1/system/status", headers=HEADERS)["engines"] if e["pid"]]
    assert not (models(served) / ".previous-tiny").exists()
    assert "No version before" in run("update", "--rollback", "tiny", code=1).stderr
    assert send(served, "POST", "/v1/models/load", {"model_name": "tiny"})[0] == 200
    assert engine(served)["context"] == 1500


def test_a_new_version_mends_a_model_that_does_not_load(served: Service, source: Hub) -> None:
    files = source.repositories["owner/sick-GGUF"] = {"sick.gguf": File(model(exit_at_start=3))}
    asked = {"model": "hf:owner/sick-GGUF:sick.gguf", "stream": False}
    assert send(served, "POST", "/v1/models/pull", asked)[0] == 200
    assert send(served, "POST", "/v1/models/load", {"model_name": "sick"})[0] == 503
    files["sick.gguf"] = File(model(context=600))
    status, answer = send(served, "POST", "/v1/models/update", {"model": "sick", "stream": False})
    assert (status, answer["status"]) == (200, "success")
    assert send(served, "POST", "/v1/models/load", {"model_name": "sick"})[0] == 200
    assert send(served, "POST", "/v1/models/unload", {"model_name": "sick"})[0] == 200
    assert send(served, "DELETE", "/v1/models/sick")[1]["paths"] == ["sick", ".previous-sick"]
    # It took the place of the other one.
    assert send(served, "POST", "/v1/models/load", {"model_name": "tiny"})[0] == 200


def test_progress_comes_as_events_and_an_update_is_called_off(served: Service, source: Hub) -> None:
    publish(source, 6, context=1600)
    source.repositories[REPO][FILE].content += bytes(2000)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    body = json.dumps({"model": "tiny"})
    source.gate.clear()
    connection.request("POST", "/v1/models/update", body, HEADERS)
    answer = connection.getresponse()
    first = event(answer)
    assert (first["task"], first["status"]) == ("update", "downloading")
    assert send(served, "DELETE", f"/v1/models/pull/{first['id']}")[1]["status"] == "cancelled"
    connection.close()
    source.gate.set()
    connection.request("POST", "/v1/models/update", body, HEADERS)
    answer = connection.getresponse()
    seen = []
    while (said := event(answer)) is not None:
        seen.append(said)
    connection.close()
    statuses = [each["status"] for each in seen]
    assert "loading" in statuses and statuses[-1] == "success"
    assert engine(served)["context"] == 1600
    # Again there is nothing to do.
    status, last = send(served, "POST", "/v1/models/update", {"model": "tiny", "stream": False})
    assert (status, last["status"], last["detail"]) == (200, "success", CURRENT)


CURRENT = "It is as its source has it."


def event(answer: http.client.HTTPResponse) -> Any:
    while True:
        line = answer.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: "):
            return None if b"[DONE]" in line else json.loads(line[6:])


def test_what_cannot_be_updated_says_why(served: Service, run: Run, elsewhere: Run) -> None:
    for path in ("update", "rollback"):
        status, answer = send(served, "POST", f"/v1/models/{path}", {"model": "nope"})
        assert (status, answer["error"]["code"]) == (404, "model_not_fetched")
    status, answer = send(served, "GET", "/v1/models/updates?nmae=tiny")
    assert (status, answer["error"]["param"]) == (400, "nmae")
    assert served.request("/v1/models/updates")[0] == 401
    assert "was not fetched" in run("update", "nope", code=1).stderr
    assert "was not fetched" in elsewhere("update", "nope", "--check", code=1).stderr
    run("update", "tiny", "--rollback", "tiny", code=2)


def test_check_for_cron_tells_current_updates_and_failure_apart(
    served: Service, source: Hub, run: Run
) -> None:
    script = "scripts/update_models.py"
    run("update")
    assert run("--check", script=script).returncode == 0
    publish(source, 7, context=1700)
    assert "update" in run("--check", code=10, script=script).stdout
    source.faults.status = 503
    assert "does not answer" in run("--check", code=1, script=script).stdout
    assert engine(served)["context"] != 1700


def test_verify_on_another_machine(served: Service, run: Run, elsewhere: Run) -> None:
    assert elsewhere("verify").stdout == "tiny: as fetched\n"
    file = models(served) / "tiny" / FILE
    whole = file.read_bytes()
    file.unlink()  # the version before may be the same file on the disk
    file.write_bytes(whole[:-1] + b"?")
    try:
        told = elsewhere("verify", "tiny", "--json", code=1).stdout
        assert "another content" in json.loads(told)[0]["faults"][0]
        assert "another content" in run("verify", code=1).stdout
    finally:
        file.write_bytes(whole)
    assert "was not fetched" in elsewhere("verify", "nope", code=1).stderr


def test_ollamas_client_pulls_updates_and_deletes(served: Service, source: Hub) -> None:
    client = ollama.Client(served.url, headers=HEADERS)
    source.repositories["owner/other-GGUF"] = {
        "other-Q4_K_M.gguf": File(model(context=700)),
        "other-Q8_0.gguf": File(model(context=800)),
    }
    assert client.pull("hf.co/owner/other-GGUF:Q8_0").status == "success"
    folder = models(served) / "other-GGUF"
    assert [each.name for each in folder.glob("*.gguf")] == ["other-Q8_0.gguf"]
    # What is here already is brought up to date, as Ollama does.
    source.repositories["owner/other-GGUF"]["other-Q8_0.gguf"] = File(model(context=900))
    *_, last = client.pull("hf.co/owner/other-GGUF:Q8_0", stream=True)
    assert last.status == "success" and is_whole(folder)
    assert b"900" in (folder / "other-Q8_0.gguf").read_bytes()
    assert client.delete("other-GGUF:latest").status == "success"
    assert not folder.exists() and not (models(served) / ".previous-other-GGUF").exists()
    with pytest.raises(ollama.ResponseError, match="is loaded"):
        client.delete("tiny")


def test_without_a_service_updates_are_made_by_the_command_itself(
    source: Hub, tmp_path: Path
) -> None:
    publish(source, 1, context=1000)
    run = runner(tmp_path, {**variables(source, tmp_path / "models"), "PORT": "9"})
    run("pull", f"hf:{REPO}", "--name", "tiny")
    publish(source, 2, context=2000)
    told = run("update", "--check", code=10).stdout
    assert "1" * 12 in told and "2" * 12 in told
    assert "tiny is updated to 222222222222" in run("update", "tiny").stdout
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
    source.asked.clear()
    run = runner(tmp_path, {**env, "PORT": str(service.port)})
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run, "update")
        eventually(lambda: source.asked)
        with service:
            assert engine(service)["context"] == 1000
            source.gate.set()
            assert "tiny is updated to" in done.result().stdout
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
        with Asking(service) as asking:
            assert "serves the model as before" in run("update", code=1).stderr
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
