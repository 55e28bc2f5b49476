"""Starts the programs of the MLX comparison: both servers, and mlx-lm's loops without a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.client import Address
from bench.mlx_load import body, send
from bench.service import ROOT, NotStarted, free_port
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.mlx.adapter import Mlx
from vllm_obtain.hardware.machine import describe
from vllm_obtain.models import ModelCatalog

START_SECONDS = 300.0
SLOTS = 32
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class Library:
    """mlx-lm's loops in a process of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tokens_per_second(self, texts: list[str], tokens: int) -> float:
        """Generate for all texts in one batch."""
        assert self._process.stdin is not None
        print(json.dumps({"texts": texts, "tokens": tokens}), file=self._process.stdin, flush=True)
        result = self.read()
        return float(result["tokens"] / result["seconds"])

    def read(self) -> dict[str, Any]:
        """Read a line of the process."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotStarted("mlx-lm's loops exited; see the lines above")
        return dict(json.loads(line))


class Servers:
    """The running programs of the comparison.

    Args:
        own: socket of this project's MLX server.
        mlx_lm: address of mlx-lm's server.
        library: mlx-lm's loops.
        environment: variables that the MLX adapter adds.
    """

    def __init__(
        self, own: Address, mlx_lm: Address, library: Library, environment: dict[str, str]
    ) -> None:
        self.own = own
        self.mlx_lm = mlx_lm
        self.library = library
        self.environment = environment


@contextlib.contextmanager
def start_servers(folder: Path) -> Iterator[Servers]:
    """Start all three with the same model and environment, and stop them after the block.

    Args:
        folder: of the model, in MLX or Hugging Face format.

    Raises:
        NotStarted: one of them did not start.
    """
    model = ModelCatalog(folder.parent).find(folder.name)
    with (
        tempfile.TemporaryDirectory(prefix="mlx-", dir="/tmp") as runtime,
        contextlib.ExitStack() as stack,
    ):
        own = Address(path=str(Path(runtime) / "own.sock"))
        mlx_lm = Address(port=free_port())
        settings = Settings(max_concurrent_requests=SLOTS)
        sizing = Mlx().plan(model, settings, describe())
        launch = Mlx().launch(model, sizing, Path(own.path))
        # All programs use the same BLAS, but not the adapter's settings of mlx.
        blas = {k: v for k, v in launch.env.items() if not k.startswith("MLX_")}
        shared = os.environ | {"PYTHONPATH": _path()} | _OFFLINE | blas
        output = stack.enter_context((Path(runtime) / "output.txt").open("w+b"))

        def start(command: list[str], **pipes: Any) -> subprocess.Popen[Any]:
            process = subprocess.Popen(command, stderr=output, **{"env": shared, **pipes})
            stack.callback(_stop, process)
            return process

        python, output_only = sys.executable, {"stdout": output, "stdin": subprocess.DEVNULL}
        servers = {own: start(launch.command, **output_only, env=shared | launch.env)}
        arguments = ["--model", str(folder), "--port", str(mlx_lm.port), "--log-level", "ERROR"]
        servers[mlx_lm] = start([python, "-m", "mlx_lm.server", *arguments], **output_only)
        loops = start(
            [python, "-m", "bench.mlx_loops", str(folder)],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            library = Library(loops)
            library.read()
            for address, process in servers.items():
                _wait(address, process)
        except NotStarted as error:
            output.seek(0)
            raise NotStarted(f"{error}\n{output.read()[-3000:].decode()}") from None
        yield Servers(own, mlx_lm, library, launch.env)


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _wait(address: Address, process: subprocess.Popen[Any]) -> None:
    """Wait until a server responds."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            asyncio.run(send(address, body("Hello", 2)))
            return
        except (OSError, RuntimeError) as error:
            if time.monotonic() > deadline or process.poll() is not None:
                raise NotStarted(f"{address} does not respond: {error}") from None
            time.sleep(0.2)


def _stop(process: subprocess.Popen[Any]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.kill()
    process.wait()
