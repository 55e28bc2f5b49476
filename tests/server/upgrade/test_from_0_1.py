"""A running 0.1.0, its files and its service units go on with this version."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service import ROOT, Service
from tests.waiting import eventually
from vllm_obtain import __version__

pytestmark = pytest.mark.slow

RELEASE = "a33b0bb"  # the last commit of 0.1.0


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the code of 0.1.0, from the history."""
    command = ["git", "archive", RELEASE, "vllm_obtain", "run.py"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip("the history of this checkout does not reach back to 0.1.0")
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def install(package: Path) -> None:
    """Replace the installed package by the one under test, as pip does."""
    shutil.rmtree(package / "vllm_obtain")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "vllm_obtain", package / "vllm_obtain", ignore=ignored)


class InstalledService(Service):
    """A service whose package is a copy."""

    def upgrade(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vllm_obtain", "upgrade"]
        return subprocess.run(
            command, cwd=self._cwd, env=self._env, capture_output=True, text=True, timeout=120
        )

    def serves(self) -> str:
        version: str = self.json("/version")["version"]
        return version

    def kill_engine(self) -> None:
        """Kill the engine and wait until another one completes a chat."""
        before = self.engine()["pid"]
        os.kill(before, signal.SIGKILL)
        assert self.chat()["usage"]["completion_tokens"] > 0
        assert self.engine()["pid"] != before


class Load:
    """Chats, one after another, until it is stopped."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = threading.Event()
        self.failures: list[str] = []
        self.completed = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            body = {"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 4}
            status, _, response = self._service.request("/v1/chat/completions", body)
            if status == 200 and json.loads(response)["usage"]["completion_tokens"]:
                self.completed += 1
            else:
                self.failures.append(f"{status} {response!r}")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)


@pytest.fixture
def installed_service(
    release: Path, tmp_path: Path, model_here: None
) -> Iterator[InstalledService]:
    package = tmp_path / "installed"
    shutil.copytree(release, package)
    env = {"PYTHONPATH": str(package), "ENABLE_CACHING": "false"}
    with InstalledService(["run.py", "--no-fetch"], tmp_path, env, package) as service:
        yield service


def test_a_running_service_is_upgraded_under_load(installed_service: InstalledService) -> None:
    assert installed_service.serves() == "0.1.0"
    load = Load(installed_service)
    try:
        eventually(lambda: load.completed > 0, 30)
        install(Path(installed_service._cwd))
        # The old supervisor starts an engine from the new files.
        installed_service.kill_engine()
        done = installed_service.upgrade()
        assert done.returncode == 0, done
        eventually(lambda: installed_service.serves() == __version__, 60)
        completed = load.completed
        eventually(lambda: load.completed > completed, 30)
    finally:
        load.stop()
    assert not load.failures
    installed_service.kill_engine()
    installed_service.signal(signal.SIGTERM)
    installed_service.wait_until_gone(20)


def run(package: Path, folder: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(package), "MODELS_DIR": str(folder / "models")}
    command = [sys.executable, "-m", "vllm_obtain", *arguments]
    result = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result
    return result.stdout


def test_keys_and_backups_are_read(release: Path, tmp_path: Path) -> None:
    old, new, backup = tmp_path / "old", tmp_path / "new", tmp_path / "backup"
    for folder in (old, new):
        (folder / "models").mkdir(parents=True)
    run(release, old, "keys", "create", "--name", "laptop")
    (old / ".env").write_text("PORT=8123\n")
    run(release, old, "backup", str(backup))
    run(ROOT, new, "restore", str(backup))
    assert (new / ".env").read_text() == "PORT=8123\n"
    keys: Any = json.loads(run(ROOT, new, "keys", "list", "--json"))
    assert "laptop" in json.dumps(keys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "vllm_obtain.fetching", "--help"],
        ["-m", "vllm_obtain.catalogue.convert", "--help"],
        ["-c", "from vllm_obtain.api.app import create_app; assert callable(create_app)"],
        ["-c", "from vllm_obtain import gunicorn_conf; assert gunicorn_conf.post_worker_init"],
        ["-c", "import vllm_obtain.catalogue.embedded"],
    ],
)
def test_what_a_running_release_starts_is_there(arguments: list[str]) -> None:
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, timeout=60)
    assert result.returncode == 0, result
