"""A real service for tests: started by a real command, watched to its very end."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import psutil

from tests.ports import free_port
from tests.waiting import runs, wait_for_exit

ROOT = Path(__file__).parent.parent
READY = "is ready"
MARK = "VLLM_OBTAIN_TEST_MARK"


class Service:
    """A service under test.

    Args:
        command: arguments after the interpreter; `{port}` is filled in.
        env: variables on top of the defaults below.
        folder: for its logs.
        cwd: where it is started.
    """

    def __init__(
        self,
        command: list[str],
        folder: Path,
        env: dict[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.port = free_port()
        self.folder = folder
        self.context: ssl.SSLContext | None = None
        self.mark = uuid.uuid4().hex
        self.lines: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        self._command = [sys.executable, *(part.format(port=self.port) for part in command)]
        self._cwd = cwd
        inherited = {k: v for k, v in os.environ.items() if k not in ("DEBUG", "HOST", "WORKERS")}
        self._env = {
            **inherited,
            "PORT": str(self.port),
            "MODELS_DIR": str(ROOT / "models"),
            "LOG_DIR": str(folder / "logs"),
            "PYTHONUNBUFFERED": "1",
            MARK: self.mark,
            **(env or {}),
        }
        self.process: subprocess.Popen[str] | None = None
        self._known: set[psutil.Process] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    @property
    def runtime(self) -> Path:
        """Where it keeps its sockets."""
        return Path(f"/tmp/vllm-obtain-{os.getuid()}/{self.port}")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_everything()

    def start(self, until: str = READY, timeout: float = 90) -> None:
        """Start and read its output until a line holds `until`."""
        self.process = subprocess.Popen(
            self._command,
            cwd=self._cwd,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._news = queue.Queue()
        threading.Thread(target=self._read, args=(self.process, self._news), daemon=True).start()
        try:
            self.wait_for_line(until, timeout)
        except BaseException:
            self.kill_everything()
            raise

    def wait_for_line(self, text: str, timeout: float = 30) -> str:
        """Wait until it prints a line that holds `text`."""
        end = time.monotonic() + timeout
        while True:
            try:
                line = self._news.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {text!r} in:\n" + "\n".join(self.lines)) from None
            if line is None:
                raise AssertionError(f"ended before {text!r}:\n" + "\n".join(self.lines))
            if text in line:
                return line
            if "its model does not" in line:
                raise AssertionError("\n".join(self.lines))

    def request(
        self,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> tuple[int, dict[str, str], bytes]:
        """One HTTP request; errors are answers too. Header names come in lower case."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path,
            data=data,
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=self.context) as answer:
                return answer.status, _lower(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, _lower(error.headers), error.read()

    def json(self, path: str, body: Any = None, **more: Any) -> Any:
        """The body of an answer that must be 200."""
        status, _, answer = self.request(path, body, **more)
        assert status == 200, answer
        return json.loads(answer)

    def status(self) -> Any:
        return self.json("/v1/system/status")

    def engine(self, model: str = "") -> Any:
        """The one engine that runs, or that of a model."""
        running = [e for e in self.status()["engines"] if e["pid"]]
        (engine,) = [e for e in running if model in ("", e["model"])]
        return engine

    def chat(self, text: str = "Say hi.", **more: Any) -> Any:
        return self.json(
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **more},
        )

    def processes(self) -> list[psutil.Process]:
        """Every process that descends from this service, wherever it went.

        One that overwrote its environment, as vLLM's do, is found by its parents: while it has
        them. Ask once before they are killed, and it is remembered.
        """
        self._known = {process for process in self._known if runs(process)}
        parents = {process.pid for process in self._known}
        for process in psutil.process_iter():  # parents before their children
            with contextlib.suppress(psutil.Error):
                if process.ppid() in parents or process.environ().get(MARK) == self.mark:
                    self._known.add(process)
                    parents.add(process.pid)
        return [process for process in self._known if runs(process)]

    def wait_until_gone(self, seconds: float = 5) -> None:
        """Assert that no process and no socket is left within `seconds`."""
        end = time.monotonic() + seconds
        while left := self.processes():
            if time.monotonic() > end:
                raise AssertionError(f"left after {seconds} s: {[p.cmdline() for p in left]}")
            wait_for_exit(left, max(0.05, end - time.monotonic()))
        assert not self.runtime.exists(), list(self.runtime.iterdir())

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill_everything(self) -> None:
        """End whatever is left, by pid."""
        for _ in range(3):
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(timeout=10)
        # Another test may be given the same port.
        for place in (self.runtime, self.runtime.with_name(f"{self.port}b")):
            shutil.rmtree(place, ignore_errors=True)
            place.with_suffix(".lock").unlink(missing_ok=True)

    def logged(self, name: str) -> list[dict[str, Any]]:
        """The lines of a log file."""
        path = self.folder / "logs" / name
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def _read(self, process: subprocess.Popen[str], news: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line.rstrip())
            news.put(line)
        news.put(None)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
