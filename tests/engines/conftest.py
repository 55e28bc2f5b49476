"""Fake engines without a supervisor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fake_engine_server
from tests.waiting import eventually

Start = Callable[..., "FakeProcess"]


class FakeProcess:
    """A fake engine's process and its socket."""

    def __init__(self, folder: Path, switches: dict[str, Any]) -> None:
        self.socket = folder / "engine.sock"
        self._log = folder / "log"
        file = folder / "switches.json"
        file.write_text(json.dumps({"request_log": str(self._log), **switches}, default=str))
        command = [sys.executable, "-P", fake_engine_server.__file__]
        self.process = subprocess.Popen([*command, str(self.socket), str(file)])

    @property
    def requests(self) -> list[str]:
        """What became of its requests."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    path = Path(tempfile.mkdtemp(prefix="vo-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def fake_engine(socket_folder: Path) -> Iterator[Start]:
    """Starts a fake engine with switches; returns when it listens."""
    started: list[FakeProcess] = []

    def start(**switches: Any) -> FakeProcess:
        started.append(FakeProcess(socket_folder, switches))
        eventually(started[-1].socket.exists)
        return started[-1]

    yield start
    for each in started:
        each.close()
