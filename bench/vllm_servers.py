"""The two sides of `vllm_gpu`: plain `vllm serve`, and this service with its vLLM engine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.service import ROOT, free_port, get
from vllm_obtain.hardware import describe

NAME = "m"
START_SECONDS = 480.0
STOP_SECONDS = 20.0
# More than any level has, so that nobody waits at our door.
REQUESTS = 300


@dataclass(frozen=True)
class Server:
    """One side.

    Args:
        name: what it is.
        port: where it listens.
        about: what it consists of.
    """

    name: str
    port: int
    about: str = ""


@contextlib.contextmanager
def both(place: Path, memory: float, logs: Path) -> Iterator[tuple[Server, Server]]:
    """Start both at once and end them; each may take `memory` of the GPU.

    Args:
        place: a folder with `models/m`.
        memory: share of the GPU's memory.
        logs: a folder for what they print.
    """
    logs.mkdir(parents=True, exist_ok=True)
    # Both measure the GPU's free memory while the other one loads, so the cache's size is told.
    cache = ["--kv-cache-memory-bytes", str(int(memory * describe().gpus[0].memory_bytes / 2))]
    plain, ours = Server("vllm serve", free_port()), Server("this service", free_port())
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(_plain(plain.port, place, memory, cache, logs / "plain.txt")),
            stack.enter_context(_ours(ours.port, place, memory, cache, logs / "service.txt")),
        ]
        _wait(started[0], plain.port, "/health", logs / "plain.txt")
        _wait(started[1], ours.port, "/ready", logs / "service.txt")
        yield plain, Server(ours.name, ours.port, _about(ours.port))


def _plain(
    port: int, place: Path, memory: float, cache: list[str], output: Path
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    arguments = [str(place / "models" / NAME), "--served-model-name", NAME, "--port", str(port)]
    arguments += ["--host", "127.0.0.1", "--gpu-memory-utilization", str(memory), *cache]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", *arguments]
    return _running(command, {"VLLM_NO_USAGE_STATS": "1"}, place, output)


def _ours(
    port: int, place: Path, memory: float, cache: list[str], output: Path
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "WORKERS": "auto",
        "MODELS_DIR": str(place / "models"),
        "INFERENCE_ENGINE": "vllm",
        "VLLM_GPU_MEMORY_UTILIZATION": str(memory),
        "VLLM_EXTRA_ARGS": " ".join(cache),
        "MAX_CONCURRENT_REQUESTS": str(REQUESTS),
        "ENABLE_CACHING": "false",
        "ENABLE_LOG_FILE": "false",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(ROOT / "run.py"), "--mode", "prod", "--no-fetch"]
    return _running(command, settings, place, output)


@contextlib.contextmanager
def _running(
    command: list[str], env: Mapping[str, str], cwd: Path, output: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, path: str, output: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while get(port, path) != 200:
        if process.poll() is not None or time.monotonic() > end:
            lines = output.read_text(errors="replace").splitlines()[-40:]
            raise SystemExit("It did not become ready:\n" + "\n".join(lines))
        time.sleep(0.5)


def _about(port: int) -> str:
    """Say how many processes the service chose."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/system/status") as answer:
        status = json.load(answer)
    (engine,) = status["engines"]
    command = Path(f"/proc/{engine['pid']}/cmdline").read_bytes().decode().split("\0")
    arguments = " ".join(json.loads(command[-2])[4:])  # without the model and the socket
    return f"{status['gateway']['workers']} gateway workers, vLLM with {arguments}"
