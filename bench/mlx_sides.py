"""The three that are compared: our MLX server, mlx-lm's, and mlx-lm's loops without a server."""

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
from bench.mlx_load import ask, body
from bench.service import ROOT, NotStarted, free_port
from vllm_obtain.catalogue import Catalogue
from vllm_obtain.engines.mlx_engine import Mlx
from vllm_obtain.hardware import describe
from vllm_obtain.settings import Settings

START_SECONDS = 300.0
SLOTS = 32
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class Library:
    """mlx-lm's loops in a process that keeps the model."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tokens_per_second(self, texts: list[str], tokens: int) -> float:
        """Generate for all texts at once."""
        assert self._process.stdin is not None
        print(json.dumps({"texts": texts, "tokens": tokens}), file=self._process.stdin, flush=True)
        told = self.read()
        return float(told["tokens"] / told["seconds"])

    def read(self) -> dict[str, Any]:
        """Read a line of its."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotStarted("mlx-lm's loops ended; see the lines above")
        return dict(json.loads(line))


class Sides:
    """Everything that is measured, running; all of it ended with the block.

    Args:
        ours: our server's socket.
        theirs: mlx-lm's server.
        library: its loops.
        environment: what our adapter adds to its engine's environment.
    """

    def __init__(
        self, ours: Address, theirs: Address, library: Library, environment: dict[str, str]
    ) -> None:
        self.ours = ours
        self.theirs = theirs
        self.library = library
        self.environment = environment


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Sides]:
    """Start all three with the same model and the same environment.

    Args:
        folder: the model, in MLX's or Hugging Face's form.

    Raises:
        NotStarted: one did not come up.
    """
    model = Catalogue(folder.parent).find(folder.name)
    with (
        tempfile.TemporaryDirectory(prefix="mlx-", dir="/tmp") as place,
        contextlib.ExitStack() as stack,
    ):
        ours = Address(path=str(Path(place) / "ours.sock"))
        theirs = Address(port=free_port())
        settings = Settings(max_concurrent_requests=SLOTS)
        launch = Mlx().launch(model, settings, describe(), Path(ours.path))
        # A BLAS is everybody's; what the adapter asks of mlx itself is not.
        blas = {k: v for k, v in launch.env.items() if not k.startswith("MLX_")}
        shared = os.environ | {"PYTHONPATH": _path()} | _OFFLINE | blas
        output = stack.enter_context((Path(place) / "output.txt").open("w+b"))

        def start(command: list[str], **pipes: Any) -> subprocess.Popen[Any]:
            process = subprocess.Popen(command, stderr=output, **{"env": shared, **pipes})
            stack.callback(_end, process)
            return process

        python, silent = sys.executable, {"stdout": output, "stdin": subprocess.DEVNULL}
        servers = {ours: start(launch.command, **silent, env=shared | launch.env)}
        named = ["--model", str(folder), "--port", str(theirs.port), "--log-level", "ERROR"]
        servers[theirs] = start([python, "-m", "mlx_lm.server", *named], **silent)
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
        yield Sides(ours, theirs, library, launch.env)


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _wait(address: Address, process: subprocess.Popen[Any]) -> None:
    """Wait until a server has answered something."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            asyncio.run(ask(address, body("Hello", 2)))
            return
        except (OSError, RuntimeError) as error:
            if time.monotonic() > end or process.poll() is not None:
                raise NotStarted(f"{address} does not answer: {error}") from None
            time.sleep(0.2)


def _end(process: subprocess.Popen[Any]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.kill()
    process.wait()
