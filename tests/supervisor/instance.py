"""A supervisor in a process of its own, started and asked as the gateway does it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from tests.supervisor.helpers import lives, settings_for
from vllm_obtain.messages import Done, EngineStatus, Load, Message, Status, StatusReply, Stop
from vllm_obtain.supervisor import runtime
from vllm_obtain.supervisor.client import Line, Supervisor

# What the service promises: nothing is left so many seconds after its end.
GONE = 5.0


class Instance:
    """An instance of the service, without its gateway.

    Args:
        models: MODELS_DIR.
        logs: LOG_DIR.
        owner: the pid it lives for; this process when left out.
        env: more settings.
    """

    def __init__(self, models: Path, logs: Path, owner: int | None = None, **env: Any) -> None:
        # Kept as long as the instance, so that nobody else is given the port.
        self._port = socket.socket()
        self._port.bind(("127.0.0.1", 0))
        port = self._port.getsockname()[1]
        self.settings = settings_for(models, log_dir=logs, **{"port": port, **env})
        self.folder = runtime.folder(port)
        self.supervisor = Supervisor(self.settings, owner or os.getpid())
        self._pids: set[int] = set()

    def start(self) -> int:
        """Start it unless it runs; returns the supervisor's pid."""
        self.supervisor.ensure_running()
        return self.status().pid

    def status(self) -> StatusReply:
        reply = self.supervisor.ask(Status(), StatusReply)
        self._pids.add(reply.pid)
        return reply

    def load(self, model: str) -> EngineStatus:
        """Load a model and describe its engine."""
        self.supervisor.ask(Load(model, True), Done)
        return self.engine(model)

    def engine(self, model: str) -> EngineStatus:
        (engine,) = [each for each in self.status().engines if each.model == model]
        return engine

    def stop(self) -> None:
        """Tell it to end, and wait for that."""
        with Line(self.folder / runtime.CONTROL) as line:
            line.send(Stop())
            line.socket.settimeout(10)
            while line.socket.recv(4096):
                pass

    def held(self, message: Message) -> Line:
        """Send a message and keep the connection."""
        line = self.supervisor.line()
        line.send(message)
        return line

    def logged(self, name: str) -> list[dict[str, Any]]:
        """The lines of a log file."""
        path = self.settings.log_dir / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def close(self) -> None:
        """Leave nothing: the guards end the engines of a supervisor that is killed."""
        with contextlib.suppress(OSError):
            self.stop()
        for pid in self._pids:
            with contextlib.suppress(psutil.Error):
                if "vllm_obtain.supervisor" in psutil.Process(pid).cmdline():
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_suffix(runtime.START_LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()
        self._port.close()


def wait_until_gone(*pids: int | None, seconds: float = GONE) -> None:
    """Assert that processes end in time."""
    eventually(lambda: not any(map(lives, pids)), seconds)


def eventually(check: Any, seconds: float = 10.0) -> Any:
    """Wait for what sends no event."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"still {found!r} after {seconds} s"
        time.sleep(0.01)
    return found
