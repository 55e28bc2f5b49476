"""A supervisor in a process of its own, started and asked as the gateway does it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil

from tests.ports import free_port
from tests.supervisor.helpers import is_alive, settings_for
from tests.waiting import eventually
from vllm_obtain.control import runtime_dir
from vllm_obtain.control.client import ControlConnection, SupervisorClient
from vllm_obtain.control.messages import (
    EngineStatus,
    LoadModel,
    LoadStatus,
    Message,
    Status,
    StatusReply,
    StopSupervisor,
)

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
        port = free_port()
        self.settings = settings_for(models, log_dir=logs, **{"port": port, **env})
        self.folder = runtime_dir.folder(port)
        self.supervisor = SupervisorClient(self.settings, owner or os.getpid())
        self._pids: set[int] = set()

    def start(self) -> int:
        """Start it unless it runs; returns the supervisor's pid."""
        self.supervisor.ensure_running()
        return self.status().pid

    def status(self) -> StatusReply:
        reply = self.supervisor.request(Status(), StatusReply)
        self._pids.add(reply.pid)
        return reply

    def load(self, model: str) -> EngineStatus:
        """Load a model and describe its engine."""
        self.supervisor.request(LoadModel(model, True), LoadStatus)
        return self.engine(model)

    def engine(self, model: str) -> EngineStatus:
        (engine,) = [each for each in self.status().engines if each.model == model]
        return engine

    def stop(self) -> None:
        """Tell it to end, and wait for that."""
        with ControlConnection(self.folder / runtime_dir.CONTROL) as line:
            line.send(StopSupervisor())
            line.socket.settimeout(10)
            while line.socket.recv(4096):
                pass

    def held(self, message: Message) -> ControlConnection:
        """Send a message and keep the connection."""
        line = self.supervisor.connection()
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
        self.folder.with_suffix(runtime_dir.START_LOCK).unlink(missing_ok=True)


def wait_until_gone(*pids: int | None, seconds: float = GONE) -> None:
    """Assert that processes end in time."""
    eventually(lambda: not any(map(is_alive, pids)), seconds)
