"""One life of an engine: a process, its socket, and how far its start has come."""

from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm_obtain.catalogue import Model
from vllm_obtain.engines.base import Adapter, Launch
from vllm_obtain.engines.honour import gpu_variables, visible
from vllm_obtain.hardware import describe
from vllm_obtain.log import get_logger
from vllm_obtain.protocol.requests import CompletionRequest
from vllm_obtain.protocol.task import Task
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.probe import (
    EMBEDDED,
    FINISHED,
    NotReady,
    until_lives_or_ends,
    until_ready,
)
from vllm_obtain.supervisor.process import EngineProcess
from vllm_obtain.supervisor.runtime import prefix

log = get_logger("vllm_obtain.models")

_WORD = "Hello"
_WARM_UP = Task(CompletionRequest(prompt=_WORD, temperature=0, max_tokens=1), _WORD)
_numbers = itertools.count(1)


def file_name() -> str:
    """Begin the names of the files of a process that nobody has had before."""
    return f"{prefix()}{next(_numbers)}"


def planned(adapter: Adapter, files: Model, settings: Settings, socket: Path) -> Launch:
    """Work out how to start an engine on this machine, or the part that its model is put on."""
    owner = settings.models.of(files.name)
    launch = adapter.launch(files, settings, visible(describe(), owner), socket)
    return replace(launch, env={**launch.env, **gpu_variables(owner)})


def _warm_up(adapter: Adapter, files: Model) -> tuple[str, dict[str, Any], re.Pattern[bytes]]:
    """What shows that an engine works: where to ask, what, and what its answer holds."""
    if files.kind == "embedding":
        return adapter.embedding_path, adapter.embedding_body([_WORD]), EMBEDDED
    return adapter.path(_WARM_UP), adapter.body(_WARM_UP, 1), FINISHED


class Life:
    """A process of an engine; a new start is a new one.

    Args:
        files: what it loads.
        adapter: how it is started and asked.
        runtime: folder for its socket and pid file.
    """

    def __init__(self, files: Model, adapter: Adapter, runtime: Path) -> None:
        name = file_name()
        self.socket = runtime / f"{name}.sock"
        self.stage: str | None = None
        self._files = files
        self._adapter = adapter
        self._process = EngineProcess(
            f"{adapter.name}/{files.name}", runtime / f"{name}.pid", self._hear
        )

    @property
    def pid(self) -> int | None:
        """The engine's process, None until it is started."""
        return self._process.pid

    @property
    def tail(self) -> list[str]:
        """The last lines of its output."""
        return self._process.tail

    async def begin(self, settings: Settings) -> Launch:
        """Start the process and wait until a token, or a vector, came out of it.

        Returns:
            How it was started, with what it can hold.

        Raises:
            NotReady: it ended, took too long, or said something else.
            ServiceError, StartError: it could not be started.
        """
        adapter, limit = self._adapter, settings.load_timeout
        path, body, sign = _warm_up(adapter, self._files)
        launch = planned(adapter, self._files, settings, self.socket)
        try:
            async with asyncio.timeout(limit):
                await self._process.start(launch)
                await until_ready(self._process, self.socket, path, body, sign)
        except TimeoutError:
            raise NotReady(
                f"it was not ready within LOAD_TIMEOUT={limit:g} seconds. Raise it, or choose a "
                "smaller model"
            ) from None
        self.stage = None
        return launch

    async def wait(self) -> int:
        """Wait for the end; returns the exit status."""
        return await self._process.wait()

    async def until_known(self) -> None:
        """Wait until it has shown that it lives, or has ended."""
        await until_lives_or_ends(self._process, self.socket)

    async def stop(self, grace: float | None = None) -> None:
        """End it; arguments as in `EngineProcess.stop`."""
        await (self._process.stop() if grace is None else self._process.stop(grace))

    def _hear(self, line: str) -> None:
        try:
            self.stage = self._adapter.stage(line) or self.stage
        except Exception:  # a plugin's own code; its output has to be read on
            log.exception("a line of output was not understood", engine=self._adapter.name)
