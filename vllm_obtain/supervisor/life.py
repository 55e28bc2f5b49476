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
from vllm_obtain.engines.vitals import Vitals
from vllm_obtain.hardware import describe
from vllm_obtain.log import get_logger
from vllm_obtain.protocol.requests import CompletionRequest
from vllm_obtain.protocol.task import Task
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.probe import (
    EMBEDDED,
    FINISHED,
    NotReady,
    ask_metrics,
    until_lives_or_ends,
    until_ready,
    until_said,
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


def planned(
    adapter: Adapter, files: Model, settings: Settings, socket: Path, memory: int | None = None
) -> Launch:
    """Work out how to start an engine on this machine, or the part that its model is put on.

    Args:
        adapter: the engine's.
        files: what it loads.
        settings: the owner's settings.
        socket: where it will listen.
        memory: bytes that it shall take the machine's memory to be, None for what they are.
    """
    owner = settings.models.of(files.name)
    machine = describe()
    if memory is not None and memory < machine.memory_bytes:
        machine = replace(machine, memory_bytes=memory)
    launch = adapter.launch(files, settings, visible(machine, owner), socket)
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

    async def begin(self, settings: Settings, memory: int | None = None) -> Launch:
        """Start the process and wait until a token, or a vector, came out of it.

        Args:
            settings: the owner's settings.
            memory: as in `planned`.

        Returns:
            How it was started, with what it can hold.

        Raises:
            NotReady: it ended, took too long, or said something else.
            ServiceError, StartError: it could not be started.
        """
        adapter, limit = self._adapter, settings.load_timeout
        path, body, sign = _warm_up(adapter, self._files)
        launch = planned(adapter, self._files, settings, self.socket, memory)
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
        self._process.is_private = not settings.log_prompts
        return launch

    async def wait(self) -> int:
        """Wait for the end; returns the exit status."""
        return await self._process.wait()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.has_ended

    async def until_known(self) -> None:
        """Wait until it has shown that it lives, or has ended."""
        await until_lives_or_ends(self._process, self.socket)

    async def vitals(self, timeout: float) -> tuple[bool, Vitals | None]:
        """Look at its counters.

        Returns:
            Whether it answered in time, and what it said of its steps, None if nothing.
        """
        answer = await ask_metrics(self.socket, timeout)
        if answer is None:
            return False, None
        return True, self._adapter.vitals(answer)

    async def says_something(self, timeout: float) -> bool:
        """Whether it gives a token, or a vector, within `timeout` seconds."""
        path, body, sign = _warm_up(self._adapter, self._files)
        return await until_said(self.socket, path, body, sign, timeout)

    async def stop(self, grace: float | None = None) -> None:
        """End it; arguments as in `EngineProcess.stop`."""
        await (self._process.stop() if grace is None else self._process.stop(grace))

    def _hear(self, line: str) -> None:
        try:
            self.stage = self._adapter.stage(line) or self.stage
        except Exception:  # a plugin's own code; its output has to be read on
            log.exception("a line of output was not understood", engine=self._adapter.name)
