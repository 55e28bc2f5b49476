"""Starts the two servers of `vllm_gpu`: plain `vllm serve`, and this service with vLLM."""

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
from vllm_obtain.hardware.machine import describe

NAME = "m"
START_SECONDS = 480.0
STOP_SECONDS = 20.0
# More than the largest load, so that no request is queued in the gateway.
REQUESTS = 300


@dataclass(frozen=True)
class Server:
    """A running server.

    Args:
        name: name in the results.
        port: port on the loopback interface.
        description: its processes and arguments.
    """

    name: str
    port: int
    description: str = ""


@contextlib.contextmanager
def start_servers(folder: Path, memory: float, logs: Path) -> Iterator[tuple[Server, Server]]:
    """Start both servers at once, and stop them after the block.

    Args:
        folder: a folder with `models/m`.
        memory: share of the GPU memory for each server.
        logs: folder for the output of the servers.
    """
    logs.mkdir(parents=True, exist_ok=True)
    # Both measure free GPU memory while the other one loads, so set the KV cache size explicitly.
    cache = ["--kv-cache-memory-bytes", str(int(memory * describe().gpus[0].memory_bytes / 2))]
    plain, service = Server("vllm serve", free_port()), Server("this service", free_port())
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(_start_vllm(plain.port, folder, memory, cache, logs / "plain.txt")),
            stack.enter_context(
                _start_service(service.port, folder, memory, cache, logs / "service.txt")
            ),
        ]
        _wait(processes[0], plain.port, "/health", logs / "plain.txt")
        _wait(processes[1], service.port, "/ready", logs / "service.txt")
        yield plain, Server(service.name, service.port, _describe(service.port))


def _start_vllm(
    port: int, folder: Path, memory: float, cache: list[str], output: Path
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    arguments = [str(folder / "models" / NAME), "--served-model-name", NAME, "--port", str(port)]
    arguments += ["--host", "127.0.0.1", "--gpu-memory-utilization", str(memory), *cache]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", *arguments]
    return _start(command, {"VLLM_NO_USAGE_STATS": "1"}, folder, output)


def _start_service(
    port: int, folder: Path, memory: float, cache: list[str], output: Path
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "WORKERS": "auto",
        "MODELS_DIR": str(folder / "models"),
        "INFERENCE_ENGINE": "vllm",
        "VLLM_GPU_MEMORY_UTILIZATION": str(memory),
        "VLLM_EXTRA_ARGS": " ".join(cache),
        "MAX_CONCURRENT_REQUESTS": str(REQUESTS),
        "ENABLE_CACHING": "false",
        "ENABLE_LOG_FILE": "false",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(ROOT / "run.py"), "--mode", "prod", "--no-fetch"]
    return _start(command, settings, folder, output)


@contextlib.contextmanager
def _start(
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
    deadline = time.monotonic() + START_SECONDS
    while get(port, path) != 200:
        if process.poll() is not None or time.monotonic() > deadline:
            lines = output.read_text(errors="replace").splitlines()[-40:]
            raise SystemExit("The server did not become ready:\n" + "\n".join(lines))
        time.sleep(0.5)


def _describe(port: int) -> str:
    """Describe the workers of the service and the arguments of vLLM."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/system/status") as response:
        status = json.load(response)
    (engine,) = status["engines"]
    command = Path(f"/proc/{engine['pid']}/cmdline").read_bytes().decode().split("\0")
    arguments = " ".join(json.loads(command[-2])[4:])  # without the model and the socket
    return f"{status['gateway']['workers']} gateway workers, vLLM with {arguments}"
