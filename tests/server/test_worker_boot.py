"""What a changed or broken file does to a service that runs: nothing, also when a worker starts."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import ROOT, Service
from tests.waiting import eventually
from vllm_obtain.access import api_key, key_store

pytestmark = pytest.mark.slow

CHAT = {"messages": [{"role": "user", "content": "one two"}], "max_tokens": 4}


class Configured(Service):
    """A service with its settings in a `.env` file of its own folder."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.models.mkdir()
        write_model(self.models, "fine")
        self.keys = folder / "keys.json"
        self.dotenv = folder / ".env"
        self.settings = {**ENVIRONMENT, "MODELS_DIR": "models", "KEYS_FILE": "keys.json"}
        self.write()
        command = ["-m", "vllm_obtain", "serve", "--no-fetch"]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        super().__init__(command, folder, {"PYTHONPATH": path}, folder)
        del self._env["MODELS_DIR"]
        self._env["WORKERS"] = "2"

    def write(self, **more: str) -> None:
        lines = [f"{name}={value}" for name, value in {**self.settings, **more}.items()]
        self.dotenv.write_text("\n".join(lines) + "\n")

    @property
    def workers(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.pid).children()]

    def kill_worker(self) -> int:
        """Kill a worker and wait for the next one; returns its pid."""
        eventually(lambda: len(self.workers) == 2)
        before = self.workers
        os.kill(before[0], signal.SIGKILL)
        (new,) = eventually(lambda: [pid for pid in self.workers if pid not in before])
        return int(new)

    def serves_from(self, pid: int, headers: dict[str, str] | None = None) -> None:
        """Wait until a worker answers a request."""
        path = "/v1/system/status"
        eventually(lambda: self.json(path, headers=headers)["gateway"]["pid"] == pid, 30)

    def completes(self, times: int = 6) -> None:
        for _ in range(times):
            assert self.request("/v1/chat/completions", CHAT)[0] == 200


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    with Configured(tmp_path_factory.mktemp("boot")) as server:
        yield server


def test_a_changed_or_invalid_env_file_does_not_reach_a_new_worker(service: Configured) -> None:
    other = service.folder / "other"
    other.mkdir()
    write_model(other, "elsewhere")
    for change in ({"MODELS_DIR": "other"}, {"STRICT_PARAMETERS": "perhaps"}, {"PORT": "high"}):
        service.write(**change)
        service.serves_from(service.kill_worker())
        assert [model["id"] for model in service.json("/v1/models")["data"]] == ["fine"]
        service.completes()
    encrypted = service.folder / ".env.encrypted"
    encrypted.write_bytes(b"junk")
    service.serves_from(service.kill_worker())
    encrypted.unlink()
    service.write()


def test_sighup_reloads_nothing(service: Configured) -> None:
    service.write(PORT="high")
    before = service.workers
    service.signal(signal.SIGHUP)
    service.wait_for_line("SIGHUP ignored")
    service.completes()
    assert service.workers == before
    service.write()


def test_log_files_that_cannot_be_written(service: Configured) -> None:
    logs = service.folder / "logs"
    shutil.move(logs, service.folder / "moved")
    logs.write_text("a file\n")
    service.serves_from(service.kill_worker())
    supervisor = service.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    service.completes()
    logs.unlink()


def test_a_supervisor_that_ends_meanwhile(service: Configured) -> None:
    for _ in range(2):
        os.kill(service.status()["supervisor"]["pid"], signal.SIGKILL)
        service.serves_from(service.kill_worker())
        service.completes()


def test_a_worker_that_cannot_start_tries_again(service: Configured) -> None:
    away = service.folder / "runtime"
    os.kill(service.status()["supervisor"]["pid"], signal.SIGKILL)
    shutil.move(service.runtime, away)
    service.runtime.write_text("a file\n")
    new = service.kill_worker()
    assert str(service.runtime) in service.wait_for_line("worker start failed")
    assert service.request("/health")[0] == 200 and new in service.workers
    service.runtime.unlink()
    shutil.move(away, service.runtime)
    service.serves_from(new)
    service.completes()


def test_an_invalid_keys_file_keeps_the_previous_keys(tmp_path: Path) -> None:
    service = Configured(tmp_path)
    token, kept = api_key.new(["inference", "admin"])
    revoked_token, revoked = api_key.new(["inference"])
    key_store.change(service.keys, lambda _: [kept, revoked])
    with service:
        given, gone = ({"Authorization": f"Bearer {each}"} for each in (token, revoked_token))

        def codes() -> tuple[int, int, int]:
            models = "/v1/models"
            return tuple(service.request(models, headers=each)[0] for each in (given, gone, {}))

        assert codes() == (200, 200, 401)
        key_store.change(service.keys, lambda _: [kept])
        eventually(lambda: all(codes() == (200, 401, 401) for _ in range(8)))
        for content, mode in (("{broken", 0o600), (service.keys.read_text(), 0o666)):
            service.keys.write_text(content)
            service.keys.chmod(mode)
            new = service.kill_worker()
            service.serves_from(new, given)
            # Neither is the revoked key valid again, nor is the service open to all.
            assert all(codes() == (200, 401, 401) for _ in range(8)), content
