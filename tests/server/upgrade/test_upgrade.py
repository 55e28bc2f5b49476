"""A new version takes over on the same address: no request is refused, cut or answered wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.fake_engine import ENVIRONMENT, write_model
from tests.service import ROOT, Service
from tests.waiting import eventually, runs
from vllm_obtain.control import runtime_dir
from vllm_obtain.server.upgrade import pid_holder

pytestmark = pytest.mark.slow

WORDS = " ".join(f"w{number}" for number in range(12))
BODY = {"model": "a", "prompt": WORDS, "max_tokens": 50, "temperature": 1}


class Load:
    """Clients that ask all the time; what goes wrong is kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self.wrong: list[str] = []
        self.done = dict.fromkeys(("plain", "kept", "stream", "health"), 0)
        kinds: list[tuple[str, Callable[[], None]]] = [
            ("plain", self._plain),
            ("stream", self._stream),
            ("stream", self._stream),
            ("health", self._health),
        ]
        self._threads = [threading.Thread(target=self._again, args=each) for each in kinds]
        self._threads.append(threading.Thread(target=self._kept))
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def goes_on(self) -> None:
        """Wait until each kind was answered once more."""
        before = dict(self.done)
        eventually(lambda: all(self.done[kind] >= before[kind] + 1 for kind in before), 30)

    def _again(self, kind: str, ask: Callable[[], None]) -> None:
        while not self._over.is_set():
            self._noted(kind, ask)

    def _noted(self, kind: str, ask: Callable[[], None]) -> None:
        try:
            ask()
            self.done[kind] += 1
        except Exception as error:
            self.wrong.append(f"{kind}: {error!r}")

    def _line(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)

    def _plain(self) -> None:
        _finish(self._line())

    def _kept(self) -> None:
        line = self._line()  # used again until the service says that it ends
        while not self._over.is_set():
            self._noted("kept", lambda: _finish(line))
            self._over.wait(0.1)

    def _health(self) -> None:
        line = self._line()
        line.request("GET", "/health")
        assert line.getresponse().status == 200
        self._over.wait(0.1)

    def _stream(self) -> None:
        line = self._line()
        line.request("POST", "/v1/completions", json.dumps({**BODY, "stream": True}))
        answer = line.getresponse()
        said = answer.read().decode()
        assert answer.status == 200, said
        events = [json.loads(each[6:]) for each in said.split("\n\n") if each[:7] == "data: {"]
        text = "".join(c["text"] for each in events for c in each["choices"])
        assert text.split() == WORDS.split(), said
        assert said.endswith("data: [DONE]\n\n"), said


def _finish(line: http.client.HTTPConnection) -> None:
    line.request("POST", "/v1/completions", json.dumps(BODY))
    answer = line.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    assert json.loads(text)["choices"][0]["text"].split() == WORDS.split(), text


class UpgradableService(Service):
    """A service of a copy of the package, which becomes another version."""

    def version(self, number: str) -> None:
        """Have another version installed."""
        self.write("__init__.py", f'"""Another one."""\n\n__version__ = "{number}"\n')

    def write(self, name: str, text: str) -> None:
        (self._cwd / "vllm_obtain" / name).write_text(text)

    def upgrade(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vllm_obtain", "upgrade"]
        return subprocess.run(
            command, cwd=self._cwd, env=self._env, capture_output=True, text=True, timeout=60
        )

    def serves(self) -> str:
        found: str = self.json("/version")["version"]
        return found

    def supervisors(self) -> int:
        lines: list[list[str]] = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                lines.append(process.cmdline())
        return sum("vllm_obtain.supervisor" in line for line in lines)


@contextmanager
def run_service(folder: Path, **env: str) -> Iterator[UpgradableService]:
    package, models = folder / "installed", folder / "models"
    shutil.copytree(
        ROOT / "vllm_obtain", package / "vllm_obtain", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "run.py", package)
    models.mkdir()
    write_model(models, "a", pace=0.05)
    paths = os.pathsep.join([str(package), str(ROOT)])
    more = {**ENVIRONMENT, "MODELS_DIR": str(models), "PYTHONPATH": paths, **env}
    with UpgradableService(["run.py", "--no-fetch"], folder, more, package) as service:
        yield service


def test_versions_take_over_from_each_other_and_nobody_notices(tmp_path: Path) -> None:
    with run_service(tmp_path) as service:
        load = Load(service.port)
        try:
            load.goes_on()
            first = service.processes()

            # One that cannot even start changes nothing.
            conf = (ROOT / "vllm_obtain/server/gunicorn_conf.py").read_text()
            service.write("server/gunicorn_conf.py", "raise RuntimeError('broken')\n")
            failed = service.upgrade()
            assert failed.returncode == 1 and "the old version keeps serving" in failed.stdout
            load.goes_on()

            # One with another supervisor: models are loaded a second time, then it serves.
            service.write("server/gunicorn_conf.py", conf)
            service.version("2.0")
            done = service.upgrade()
            assert done.returncode == 0, done
            eventually(lambda: service.serves() == "2.0")
            load.goes_on()
            eventually(lambda: service.supervisors() == 1, 30)
            # Of the first version there is the process that was started, as a shell.
            eventually(lambda: [p.pid for p in first if runs(p)] == [service.pid], 15)
            name = pid_holder.__name__.split(".")[-1]
            eventually(lambda: name in str(psutil.Process(service.pid).cmdline()[-3:]))

            # The same once more: the supervisor and its engine stay, only the gateway is new. It is
            # stopped before the one before it has ended.
            engine = service.engine()["pid"]
            second = runtime_dir.service(service.port)
            service.signal(signal.SIGUSR2)  # as `systemctl reload` does
            eventually(lambda: runtime_dir.service(service.port) not in (None, second), 60)
            load.goes_on()
            assert service.engine()["pid"] == engine
        finally:
            load.end()
        assert not load.wrong, load.wrong
        assert all(load.done.values())
        service.signal(signal.SIGTERM)
        service.wait_until_gone(15)
        assert service.process is not None and service.process.wait(5) == 0
        assert not list(service.runtime.parent.glob(f"{service.port}*"))


def test_where_memory_is_short_requests_wait(tmp_path: Path) -> None:
    """Two copies of the model exceed MEMORY_LIMIT: the old one makes room first."""
    with run_service(tmp_path, MEMORY_LIMIT="25M") as service:
        load = Load(service.port)
        try:
            load.goes_on()
            # One whose supervisor does not come up: requests go on where they have waited.
            main = (ROOT / "vllm_obtain/supervisor/__main__.py").read_text()
            service.write("supervisor/__main__.py", "raise RuntimeError('broken')\n")
            failed = service.upgrade()
            assert failed.returncode == 1 and "requests wait" in failed.stdout, failed
            assert "the old version keeps serving" in failed.stdout
            assert service.serves() == "0.2.0"
            load.goes_on()

            service.write("supervisor/__main__.py", main)
            service.version("2.0")
            done = service.upgrade()
            assert done.returncode == 0 and "requests wait" in done.stdout, done
            eventually(lambda: service.serves() == "2.0")
            load.goes_on()
        finally:
            load.end()
        assert not load.wrong, load.wrong
        service.signal(signal.SIGTERM)
        service.wait_until_gone(15)
