"""A service of its own for the benchmark: started, found, weighed, and ended by pid."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.client import Address
from vllm_obtain.messages import Acquire, Granted
from vllm_obtain.supervisor import runtime
from vllm_obtain.supervisor.client import Line

ROOT = Path(__file__).parents[1]
START_SECONDS = 60.0
STOP_SECONDS = 5.0
# What a process needs of the caller's environment; everything else would be its settings.
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


class NotStarted(Exception):
    """The service did not come up; the message has its last lines."""


@dataclass(frozen=True)
class Service:
    """A running service.

    Args:
        port: where it listens.
        master: gunicorn's first process.
        engine: the engine's socket.
    """

    port: int
    master: psutil.Process
    engine: Address

    @property
    def gateway(self) -> Address:
        """Where clients connect."""
        return Address(port=self.port)

    @property
    def worker(self) -> psutil.Process:
        """Its (only) gateway worker."""
        return self.master.children()[0]

    @property
    def supervisor(self) -> psutil.Process:
        """The process that owns the engine: the parent of the engine's guard."""
        return self.engine_process.parents()[1]

    @property
    def engine_process(self) -> psutil.Process:
        """The engine."""
        pidfile = Path(self.engine.path).with_suffix(".pid")
        return psutil.Process(int(pidfile.read_text()))


@contextlib.contextmanager
def running(
    model: str, settings: Mapping[str, str], seconds: float = START_SECONDS
) -> Iterator[Service]:
    """Start a service with settings of its own, wait for its model, and end it.

    Args:
        model: the name of the model it shall have ready.
        settings: variables over what the benchmark always sets; nobody's `.env` is read.
        seconds: that the start may take.

    Raises:
        NotStarted: it did not become ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        port = free_port()
        output = Path(place) / "output.txt"
        environ = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environ |= {
            "PYTHONPATH": str(ROOT),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "LOG_DIR": str(Path(place) / "logs"),
            "ENABLE_CACHING": "false",
            **settings,
        }
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "run.py"), "--mode", "prod", "--no-fetch"],
                cwd=place,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to handle, in order
            )
        try:
            _wait_until_ready(process, port, output, seconds)
            engine = _engine_socket(port, model)
            yield Service(port, psutil.Process(process.pid), engine)
        finally:
            _end(process, port)


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> int:
    """Ask for a page and return its status, 0 when nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def megabytes(process: psutil.Process) -> dict[str, float]:
    """Weigh a process: resident memory, and its share of what it shares where that is known."""
    info = process.memory_full_info()
    sizes = {"rss": info.rss, "pss": getattr(info, "pss", info.rss)}
    return {name: round(size / 2**20, 1) for name, size in sizes.items()}


def _wait_until_ready(
    process: subprocess.Popen[bytes], port: int, output: Path, seconds: float
) -> None:
    end = time.monotonic() + seconds
    while get(port, "/ready") != 200:
        if process.poll() is not None or time.monotonic() > end:
            lines = output.read_text(errors="replace").splitlines()[-15:]
            raise NotStarted("The service did not become ready:\n" + "\n".join(lines))
        time.sleep(0.1)


def _engine_socket(port: int, model: str) -> Address:
    """Ask the supervisor as a worker does; the lease ends with the connection."""
    with Line(runtime.folder(port) / runtime.CONTROL) as line:
        granted = line.ask(Acquire(model, 1, 1, START_SECONDS), Granted, START_SECONDS)
    return Address(path=granted.socket)


def _end(process: subprocess.Popen[bytes], port: int) -> None:
    """End gunicorn; its supervisor follows, and with it the engine."""
    workers: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        workers = psutil.Process(process.pid).children()
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for worker in workers:
        with contextlib.suppress(psutil.Error):
            worker.kill()
    folder = runtime.folder(port)
    end = time.monotonic() + 2 * STOP_SECONDS
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.05)
    folder.with_suffix(runtime.START_LOCK).unlink(missing_ok=True)
