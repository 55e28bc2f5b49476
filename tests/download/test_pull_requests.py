"""Fetching and removing over HTTP, by a whole service, from a hub that cuts and refuses."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.download.hubs import Faults, File, Hub, hub
from tests.download.test_download import FILE, MB, REPO, is_whole, serve
from tests.models.gguf_files import write_gguf
from tests.service import Service
from tests.waiting import eventually, wait_for_exit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source() -> Iterator[Hub]:
    with hub() as server:
        yield server


@pytest.fixture(scope="module")
def pull_service(source: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("pulls")
    write_gguf(folder / "models" / "alpha.gguf")
    env = {
        "MODELS_DIR": str(folder / "models"),
        "HF_ENDPOINT": source.url,
        "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9",
        "INFERENCE_ENGINE": "fake",
        "DEFAULT_MODEL": "alpha",
        "EXTRA_ENGINES": "fake=tests.fake_engine:FakeAdapter",
    }
    with Service(["run.py", "--no-fetch"], folder, env) as service:
        yield service


@pytest.fixture(autouse=True)
def calm(source: Hub) -> Iterator[None]:
    yield
    source.gate.set()
    source.faults = Faults()
    source.flowing.clear()
    source.sent.clear()
    source.requests.clear()


def models(service: Service) -> Path:
    return service.folder / "models"


def gguf(tmp_path: Path) -> bytes:
    write_gguf(tmp_path / "made.gguf")
    return (tmp_path / "made.gguf").read_bytes()


def send(service: Service, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def pull(service: Service, **body: Any) -> tuple[int, Any]:
    return send(service, "POST", "/v1/models/pull", {"stream": False, **body})


class Stream:
    """A streamed pull."""

    def __init__(self, service: Service, **body: Any) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        self._connection.request("POST", "/v1/models/pull", json.dumps(body))
        self.answer = self._connection.getresponse()

    def next(self) -> Any:
        while True:
            line = self.answer.readline()
            assert line, "the stream ended"
            if line.startswith(b"data: "):
                said = line[6:].strip()
                return said.decode() if said == b"[DONE]" else json.loads(said)

    def rest(self) -> list[Any]:
        events = []
        while (event := self.next()) != "[DONE]":
            events.append(event)
        return events

    def close(self) -> None:
        self._connection.close()


def running_downloads(service: Service) -> list[Any]:
    listed = send(service, "GET", "/v1/models/pulls")[1]["data"]
    over = ("success", "failed", "cancelled")
    return [each for each in listed if each["status"] not in over]


def test_a_pulled_model_is_served_and_can_be_removed(
    pull_service: Service, source: Hub, tmp_path: Path
) -> None:
    source.repositories[REPO] = {FILE: File(gguf(tmp_path))}
    status, answer = pull(pull_service, model=f"hf:{REPO}", name="tiny")
    assert (status, answer["status"], answer["name"]) == (200, "success", "tiny")
    assert is_whole(models(pull_service) / "tiny")
    assert pull_service.chat(model="tiny")["choices"]
    # Never one in use.
    status, answer = send(pull_service, "DELETE", "/v1/models/tiny")
    assert (status, answer["error"]["code"]) == (409, "model_in_use")
    pull_service.json("/v1/models/unload", {"model_name": "tiny"})
    status, answer = send(pull_service, "DELETE", "/v1/models/tiny")
    assert (status, answer["deleted"], answer["paths"]) == (200, True, ["tiny"])
    assert answer["bytes"] > 0 and not (models(pull_service) / "tiny").exists()
    assert send(pull_service, "DELETE", "/v1/models/tiny")[0] == 404
    assert not list(models(pull_service).glob(".removing-*"))


def test_progress_comes_as_events_while_it_is_cut(pull_service: Service, source: Hub) -> None:
    serve(source, 30 * MB)
    source.faults.cuts, source.faults.cut_after, source.faults.rate = 1, 10 * MB, 40 * MB
    stream = Stream(pull_service, model=f"hf:{REPO}", name="events")
    assert stream.answer.status == 200
    assert stream.answer.headers["Content-Type"] == "text/event-stream"
    events = stream.rest()
    source.faults.rate = 0
    assert [each["object"] for each in events] == ["model.pull"] * len(events)
    assert events[-1]["status"] == "success"
    assert events[-1]["completed"] == events[-1]["total"] == 30 * MB
    done = [each["completed"] for each in events]
    assert done == sorted(done) and len(set(done)) > 3 and any(each["rate"] for each in events)
    assert len(source.transfers) == 2


def test_a_pull_goes_on_without_its_client_and_who_asks_again_joins_it(
    pull_service: Service, source: Hub
) -> None:
    serve(source, 3 * MB)
    source.gate.clear()
    stream = Stream(pull_service, model=f"hf:{REPO}", name="alone")
    first = stream.next()
    assert eventually(lambda: source.requests)
    stream.close()
    (other,) = running_downloads(pull_service)
    assert other["id"] == first["id"]
    again = Stream(pull_service, model=f"hf:{REPO}", name="alone")
    assert again.next()["id"] == first["id"]
    source.gate.set()
    assert again.rest()[-1]["status"] == "success"
    assert len(source.transfers) == 1 and is_whole(models(pull_service) / "alone")


def test_a_pull_is_called_off_and_gone_on_with(pull_service: Service, source: Hub) -> None:
    serve(source, 6 * MB)
    source.faults.rate = 2 * MB
    stream = Stream(pull_service, model=f"hf:{REPO}", name="later")
    first = stream.next()
    eventually(lambda: source.sent.get(FILE, 0) > MB)
    children = fetchers(pull_service)
    assert len(children) == 1
    status, answer = send(pull_service, "DELETE", f"/v1/models/pull/{first['id']}")
    assert (status, answer["status"]) == (200, "cancelled")
    assert stream.rest()[-1]["status"] == "cancelled"
    assert not wait_for_exit(children, 5)
    assert not fetchers(pull_service) and not (models(pull_service) / "later").exists()
    source.faults.rate = 0
    assert pull(pull_service, model=f"hf:{REPO}", name="later")[1]["status"] == "success"
    assert "bytes=" in source.transfers[-1] and source.sent[FILE] < 7 * MB
    # One that is over stays what it was.
    assert (
        send(pull_service, "DELETE", f"/v1/models/pull/{first['id']}")[1]["status"] == "cancelled"
    )


def fetchers(service: Service) -> list[psutil.Process]:
    return [
        each for each in service.processes()
        if "vllm_obtain.download" in each.cmdline() and "guard.py" not in " ".join(each.cmdline())
    ]  # fmt: skip


def test_what_fails_has_its_status_streamed_or_not(pull_service: Service, source: Hub) -> None:
    serve(source).claimed = 10**15
    for stream in (True, False):
        status, answer = pull(pull_service, model=f"hf:{REPO}", name="huge", stream=stream)
        assert (status, answer["error"]["code"]) == (507, "insufficient_storage")
        assert "1,000,000.00 GB" in answer["error"]["message"]
    assert source.requests == []
    serve(source)
    for body, status, code in [
        ({"model": "no-such"}, 404, "source_not_found"),
        ({"model": "hf:no/such"}, 404, "source_not_found"),
        ({"model": "owner/tiny"}, 400, "invalid_value"),
        ({"model": "/etc/passwd"}, 400, "invalid_value"),
        ({"model": f"hf:{REPO}", "name": "../out"}, 400, "invalid_value"),
        ({"model": f"hf:{REPO}", "format": "onnx"}, 400, "invalid_value"),
        ({"model": f"modelscope:{REPO}"}, 502, "fetch_failed"),
    ]:
        found, answer = pull(pull_service, **body)
        assert (found, answer["error"]["code"]) == (status, code), answer
    assert (
        send(pull_service, "DELETE", "/v1/models/pull/none")[1]["error"]["code"] == "pull_not_found"
    )


def test_an_owners_file_of_names_that_is_wrong_says_where(pull_service: Service) -> None:
    file = models(pull_service) / "catalogue.toml"
    file.write_text("[models.mine]\nabout = 3\n")
    try:
        status, answer = pull(pull_service, model="mine")
        assert (status, answer["error"]["code"]) == (503, "names_broken")
        assert "catalogue.toml" in answer["error"]["message"]
    finally:
        file.unlink()


@pytest.mark.parametrize("name", ["..%2f..%2fetc", "%2fetc%2fpasswd", ".", "alpha%2f..%2falpha"])
def test_no_path_removes_what_is_no_model(pull_service: Service, name: str) -> None:
    status, _ = send(pull_service, "DELETE", f"/v1/models/{name}")
    assert status == 404 and (models(pull_service) / "alpha.gguf").exists()


def test_what_was_put_there_by_hand_goes_without_its_neighbours(pull_service: Service) -> None:
    folder = models(pull_service) / "by-hand"
    folder.mkdir()
    write_gguf(folder / "one.gguf")
    write_gguf(folder / "two.gguf")
    (folder / "notes.txt").write_text("mine")
    eventually(lambda: send(pull_service, "GET", "/v1/models/by-hand/one")[0] == 200)
    assert send(pull_service, "DELETE", "/v1/models/by-hand/one")[1]["paths"] == [
        "by-hand/one.gguf"
    ]
    assert sorted(each.name for each in folder.iterdir()) == ["notes.txt", "two.gguf"]


def test_what_lies_behind_a_link_is_not_removed(pull_service: Service) -> None:
    real = models(pull_service) / ".store" / "real"
    real.mkdir(parents=True)
    write_gguf(real / "r.gguf")
    (models(pull_service) / "alink").symlink_to(real)
    eventually(lambda: send(pull_service, "GET", "/v1/models/alink")[0] == 200)
    status, answer = send(pull_service, "DELETE", "/v1/models/alink")
    assert (status, answer["error"]["code"]) == (409, "model_not_removable")
    assert (real / "r.gguf").exists()


def test_the_child_ends_with_a_supervisor_that_is_killed(
    pull_service: Service, source: Hub
) -> None:
    serve(source, 3 * MB)
    source.gate.clear()
    stream = Stream(pull_service, model=f"hf:{REPO}", name="orphan")
    stream.next()
    eventually(lambda: source.requests)
    children = fetchers(pull_service)
    os.kill(pull_service.status()["supervisor"]["pid"], signal.SIGKILL)
    assert children and not wait_for_exit(children, 5)
    assert "error" in stream.rest()[-1]
    source.gate.set()
    # The next supervisor goes on where it was.
    assert pull(pull_service, model=f"hf:{REPO}", name="orphan")[1]["status"] == "success"
