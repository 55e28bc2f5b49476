"""Starts and stops a service for a benchmark, and measures its processes."""

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
from vllm_obtain.control import runtime_dir
from vllm_obtain.control.client import ControlConnection
from vllm_obtain.control.messages import AcquireLease, LeaseGranted

ROOT = Path(__file__).parents[1]
START_SECONDS = 60.0
STOP_SECONDS = 5.0
# Variables that the service inherits; all others could be settings.
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


class NotStarted(Exception):
    """The service did not become ready; the message contains its last lines."""


@dataclass(frozen=True)
class Service:
    """A running service.

    Args:
        port: of the service.
        master: gunicorn's main process.
        engine: the engine's socket.
    """

    port: int
    master: psutil.Process
    engine: Address

    @property
    def gateway(self) -> Address:
        """Address for clients."""
        return Address(port=self.port)

    @property
    def worker(self) -> psutil.Process:
        """The only gateway worker."""
        return self.master.children()[0]

    @property
    def supervisor(self) -> psutil.Process:
        """The supervisor: the parent of the engine's guard."""
        return self.engine_process.parents()[1]

    @property
    def engine_process(self) -> psutil.Process:
        """The engine process."""
        pidfile = Path(self.engine.path).with_suffix(".pid")
        return psutil.Process(int(pidfile.read_text()))


@contextlib.contextmanager
def start_service(
    model: str, settings: Mapping[str, str], seconds: float = START_SECONDS
) -> Iterator[Service]:
    """Start a service, wait until its model is ready, and stop it after the block.

    Args:
        model: name of the model.
        settings: environment variables that override those of the benchmark. No `.env` is read.
        seconds: maximum time for the start.

    Raises:
        NotStarted: the service did not become ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        output = Path(folder) / "output.txt"
        environ = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environ |= {
            "PYTHONPATH": str(ROOT),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "LOG_DIR": str(Path(folder) / "logs"),
            "ENABLE_CACHING": "false",
            **settings,
        }
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "run.py"), "--mode", "prod", "--no-fetch"],
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the benchmark handles Ctrl-C
            )
        try:
            _wait_until_ready(process, port, output, seconds)
            engine = _engine_socket(port, model)
            yield Service(port, psutil.Process(process.pid), engine)
        finally:
            _stop(process, port)


def free_port() -> int:
    """Find a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> int:
    """Request a path and return the status, 0 without a response."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def megabytes(process: psutil.Process) -> dict[str, float]:
    """Measure the memory of a process: RSS, and PSS where available."""
    info = process.memory_full_info()
    sizes = {"rss": info.rss, "pss": getattr(info, "pss", info.rss)}
    return {name: round(size / 2**20, 1) for name, size in sizes.items()}


def _wait_until_ready(
    process: subprocess.Popen[bytes], port: int, output: Path, seconds: float
) -> None:
    deadline = time.monotonic() + seconds
    while get(port, "/ready") != 200:
        if process.poll() is not None or time.monotonic() > deadline:
            lines = output.read_text(errors="replace").splitlines()[-15:]
            raise NotStarted("The service did not become ready:\n" + "\n".join(lines))
        time.sleep(0.1)


def _engine_socket(port: int, model: str) -> Address:
    """Ask the supervisor for the socket, like a worker; the lease ends with the connection."""
    with ControlConnection(runtime_dir.folder(port) / runtime_dir.CONTROL) as line:
        granted = line.request(
            AcquireLease(model, 1, 1, START_SECONDS), LeaseGranted, START_SECONDS
        )
    return Address(path=granted.socket)


def _stop(process: subprocess.Popen[bytes], port: int) -> None:
    """Stop gunicorn. The supervisor and the engine stop after it."""
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
    folder = runtime_dir.folder(port)
    deadline = time.monotonic() + 2 * STOP_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    folder.with_suffix(runtime_dir.START_LOCK).unlink(missing_ok=True)
