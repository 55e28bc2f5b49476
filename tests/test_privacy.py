"""What is asked, and by whom, stays in memory: a marker goes everywhere and is found nowhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.access.helpers import bearer
from tests.fake_engine import ENVIRONMENT, write_model
from tests.fleet import MODEL
from tests.models.gguf_files import TINY, write_gguf
from tests.service import ROOT, Service
from tests.waiting import eventually
from vllm_obtain.gateway.routes import ROUTES

MARK, KEY = f"mark{uuid.uuid4().hex}", f"key-{uuid.uuid4().hex}"
CHAT = "/v1/chat/completions"
# What a request needs as it is to get anywhere.
KEPT = {"model", "role", "type", "encoding_format", "engine", "media_type"}
# Lets cores be as large as may be, as an owner's shell might, and starts the service.
START = f"""
import resource, runpy, sys
most = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (most, most))
sys.argv = ["run.py", "--no-fetch"]
runpy.run_path({str(ROOT / "run.py")!r}, run_name="__main__")
"""


class WatchedService(Service):
    """A service with engines of all kinds of trouble, and everything it writes in one folder."""

    def __init__(self, folder: Path) -> None:
        models, cwd, tmp = (folder / name for name in ("models", "cwd", "tmp"))
        for each in (models, cwd, tmp):
            each.mkdir()
        shutil.copytree(ROOT / "models" / MODEL, models / MODEL)
        message = {"message": "cannot read {prompt}", "type": "server_error", "code": 500}
        write_model(models, "fine", print_prompts=True)
        write_model(models, "bad", print_prompts=True, error=message)
        write_model(models, "refuses", print_prompts=True, error=message, error_status=400)
        write_model(models, "breaks", print_prompts=True, error_after_tokens=1)
        write_model(models, "garbles", print_prompts=True, garbage_chunk=True)
        write_model(models, "hangs", print_prompts=True, hang_after_tokens=1)
        crash = {"crash_before_first_byte": True, "crash_signal": int(signal.SIGSEGV)}
        write_model(models, "crashes", print_prompts=True, **crash)
        words = "{{ raise_exception(messages[0].content) }}"
        write_gguf(models / "raises.gguf", {**TINY, "tokenizer.chat_template": words})
        write_gguf(models / "fails.gguf", {**TINY, "tokenizer.chat_template": "{{ messages.x.y }}"})
        secrets = folder.parent / f"{folder.name}-secrets"
        secrets.mkdir()
        (secrets / "keys").write_text(KEY)
        env = {
            **ENVIRONMENT,
            "MODELS_DIR": str(models),
            "MODEL_ENGINES": f"{MODEL}=llama_cpp",
            "DEFAULT_MODEL": MODEL,
            "MAX_CONCURRENT_MODELS": "4",
            "MAX_BODY_MB": "1",
            "REQUEST_TIMEOUT": "15",
            "LOG_LEVEL": "DEBUG",
            "API_KEYS_FILE": str(secrets / "keys"),
            "KEYS_FILE": str(secrets / "keys.json"),
            "TMPDIR": str(tmp),
            "PYTHONPATH": str(ROOT),
        }
        super().__init__(["-c", START], folder, env, cwd)
        self.late = threading.Thread(target=self.ask, args=("hangs",))

    def send(self, path: str, body: Any, **headers: str) -> int:
        """Send a body as it is or as JSON; a broken answer is one too."""
        try:
            return self.request(path, body, bearer(KEY) | headers, timeout=30)[0]
        except (OSError, ValueError):
            return 0

    def ask(self, model: str, text: str = MARK, **more: Any) -> int:
        messages = [{"role": "user", "content": text}]
        return self.send(CHAT, {"model": model, "messages": messages, "max_tokens": 8, **more})

    def pages(self) -> str:
        """All that it tells of itself."""
        told = []
        for route in ROUTES:
            if route.method == "GET" and "{" not in route.template:
                told.append(self.request(route.path, None, bearer(KEY))[2].decode())
        return "\n".join(told)

    def raw(self, data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as line:
            line.sendall(data)
            with contextlib.suppress(OSError):
                line.recv(4096)


@pytest.fixture(scope="module")
def watched_service(
    tmp_path_factory: pytest.TempPathFactory, model_here: None
) -> Iterator[WatchedService]:
    with WatchedService(tmp_path_factory.mktemp("watched")) as service:
        # It takes REQUEST_TIMEOUT, so it runs beside the tests.
        service.late.start()
        yield service


def add_marker(value: Any, name: str = "") -> Any:
    """Put the marker wherever a request has text."""
    if isinstance(value, dict):
        return {key: add_marker(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [add_marker(one, name) for one in value]
    return MARK if isinstance(value, str) and name not in KEPT else value


def where_it_is(service: WatchedService, secret: str) -> list[str]:
    """Name the places in which a text is."""
    found = []
    for folder in (service.folder, service.runtime):
        for path in folder.rglob("*"):
            regular = path.is_file() and not path.is_symlink()
            if regular and path.suffix != ".gguf" and secret.encode() in path.read_bytes():
                found.append(str(path))
    found += [f"terminal: {line[:300]}" for line in service.lines if secret in line]
    for process in service.processes():
        with contextlib.suppress(OSError, psutil.Error):
            for part in ("cmdline", "environ"):
                if secret.encode() in Path(f"/proc/{process.pid}/{part}").read_bytes():
                    found.append(f"{part} of {process.name()}")
    if secret in service.pages():
        found.append("a page")
    return found


def cores(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("core*") if path.is_file()]


def test_every_route(watched_service: WatchedService) -> None:
    for route in ROUTES:
        path = route.template.replace("{name}", MARK).replace("{file}", MARK)
        if route.method == "POST":
            for body in (
                add_marker(route.example or {}),
                {MARK: 1, **(route.example or {})},
                {"model": MARK, "messages": MARK, "prompt": [MARK], "input": {MARK: MARK}},
                f'{{"model": "{MARK}'.encode(),
            ):
                watched_service.send(
                    path, body, **{"X-Marker": MARK, "User-Agent": MARK, "Cookie": MARK}
                )
        else:
            asked = f"{path}?q={MARK}"
            watched_service.request(asked, None, bearer(KEY) | {"Referer": MARK, "X-Marker": MARK})
    assert where_it_is(watched_service, MARK) == []


def test_requests_that_go_wrong(watched_service: WatchedService) -> None:
    assert watched_service.ask("fine", user=MARK, metadata={"a": MARK}) == 200
    assert watched_service.ask("fine", stream=True) == 200
    assert watched_service.ask("fine", MARK * 9000) == 400
    assert watched_service.ask("fine", MARK * 40_000) == 413
    assert watched_service.ask("bad") == 502
    assert watched_service.ask("refuses") == 400
    assert watched_service.ask("breaks", stream=True) == 200
    assert watched_service.ask("garbles", stream=True) == 200
    assert watched_service.ask("raises") == 400
    assert watched_service.ask("fails") in (400, 500)
    assert watched_service.ask(MARK) == 404
    # It was evicted meanwhile; the load alone may take longer than the request may.
    assert watched_service.send("/v1/models/load", {"model_name": MODEL}) == 200
    schema = {
        "type": "object",
        "properties": {MARK: {"enum": [MARK]}, "b": {"pattern": f"({MARK}"}},
    }
    for strict, status in ((True, 400), (False, 200)):
        function = {"name": "f", "parameters": schema, "strict": strict}
        tool = {"type": "function", "function": function}
        assert watched_service.ask(MODEL, tools=[tool], max_tokens=8) == status
    assert watched_service.ask(MODEL, guided_regex=f"({MARK}") == 400
    good = {"type": "object", "properties": {"a": {"const": MARK}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": good}}
    assert watched_service.ask(MODEL, response_format=form) == 200
    for url in (f"data:image/png;base64,{MARK}", f"http://127.0.0.1:1/{MARK}", f"file:///{MARK}"):
        image = [{"type": "image_url", "image_url": {"url": url}}]
        assert watched_service.ask(MODEL, image) == 400  # type: ignore[arg-type]
    watched_service.raw(
        f"GET /{MARK} HTTP/1.1\r\nHost: localhost\r\nAuthorization Bearer {KEY}\r\n\r\n".encode()
    )
    watched_service.raw(f"{MARK} {KEY}\r\n\r\n".encode())
    watched_service.raw(
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MARK}\r\n\r\n".encode()
    )
    watched_service.raw(f"GET / HTTP/1.1\r\nHost: {MARK}\r\nX-Api-Key: {KEY}\r\n\r\n".encode())
    watched_service.late.join()
    assert where_it_is(watched_service, MARK) == []
    assert where_it_is(watched_service, KEY) == []


def test_crashes(watched_service: WatchedService) -> None:
    assert watched_service.ask("crashes") in (400, 502)
    assert watched_service.ask("crashes") == 400, "it is quarantined"
    before = watched_engine(watched_service, MODEL)
    asking = threading.Thread(target=watched_service.ask, args=(MODEL,), kwargs={"max_tokens": 100})
    asking.start()
    eventually(lambda: watched_engine(watched_service, MODEL)["in_flight"])
    os.kill(before["pid"], signal.SIGSEGV)
    asking.join()
    eventually(lambda: watched_engine(watched_service, MODEL)["restarts"])
    crashed = [
        line for line in watched_service.logged("errors.log") if line["event"] == "engine crashed"
    ]
    assert {line["model"] for line in crashed} == {"crashes", MODEL}
    worker = watched_service.request("/v1/system/status", None, bearer(KEY))[2]
    asking = threading.Thread(target=watched_service.ask, args=("hangs",))
    asking.start()
    eventually(lambda: watched_engine(watched_service, "hangs")["in_flight"])
    os.kill(json.loads(worker)["gateway"]["pid"], signal.SIGABRT)
    asking.join()
    eventually(lambda: watched_service.send("/v1/models/load", {"model_name": MODEL}) == 200)
    assert where_it_is(watched_service, MARK) == []
    assert where_it_is(watched_service, KEY) == []
    assert cores(watched_service.folder) == []


def watched_engine(service: WatchedService, model: str) -> Any:
    found = json.loads(service.request("/v1/system/status", None, bearer(KEY))[2])["engines"]
    return next((each for each in found if each["model"] == model), {"in_flight": 0, "restarts": 0})


def test_a_core_is_left_where_the_owner_wants_it(tmp_path: Path) -> None:
    """And the places in which the tests above look are where it would be."""
    import resource
    import subprocess
    import sys

    pattern = Path("/proc/sys/kernel/core_pattern")
    if not pattern.exists() or pattern.read_text().strip() not in ("core", "core.%p"):
        pytest.skip("cores go elsewhere on this machine")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("no process may leave a core here")
    program = (
        "import os, resource, sys; from vllm_obtain import core_dumps; "
        "from vllm_obtain.config.settings import Settings; "
        "most = resource.getrlimit(resource.RLIMIT_CORE)[1]; "
        "resource.setrlimit(resource.RLIMIT_CORE, (most, most)); "
        "core_dumps.forbid(Settings.load({'CORE_FILES': sys.argv[1]})); os.abort()"
    )
    for wanted in ("false", "true"):
        folder = tmp_path / wanted
        folder.mkdir()
        command = [sys.executable, "-c", program, wanted]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        assert subprocess.run(command, cwd=folder, env=env).returncode == -signal.SIGABRT
        assert bool(cores(folder)) is (wanted == "true")
