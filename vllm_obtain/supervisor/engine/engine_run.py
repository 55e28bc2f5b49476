"""One process of an engine, with its socket and the progress of its start."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm_obtain.config.settings import Settings
from vllm_obtain.control.runtime_dir import prefix
from vllm_obtain.engines.adapter import Adapter, Sizing
from vllm_obtain.engines.model_options import gpu_variables
from vllm_obtain.engines.step_counter import StepReading
from vllm_obtain.fs import lock_shared
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models import Model
from vllm_obtain.protocol.engine_request import EngineRequest
from vllm_obtain.protocol.sampling_params import SamplingParams
from vllm_obtain.supervisor.engine.process import EngineProcess
from vllm_obtain.supervisor.engine.readiness import (
    EMBEDDED,
    FINISHED,
    NotReady,
    fetch_metrics,
    wait_for_token,
    wait_until_listening,
    wait_until_ready,
)

log = get_logger("vllm_obtain.models")

_PROMPT = "Hello"
_WARM_UP = EngineRequest(_PROMPT, SamplingParams.resolve({"temperature": 0, "max_tokens": 1}))
_numbers = itertools.count(1)


def file_name() -> str:
    """Return a unique prefix for the files of a process."""
    return f"{prefix()}{next(_numbers)}"


def _warm_up(adapter: Adapter, files: Model) -> tuple[str, dict[str, Any], re.Pattern[bytes]]:
    """Return path, body and expected content of the warm-up request."""
    if files.kind == "embedding":
        return adapter.embedding_path, adapter.embedding_body([_PROMPT]), EMBEDDED
    return adapter.path(_WARM_UP), adapter.body(_WARM_UP, 1), FINISHED


class EngineRun:
    """One process of an engine; each start creates a new object.

    Args:
        model: the model; no other service on this machine can remove it meanwhile.
        files: the files to load.
        adapter: adapter of the engine.
        runtime: folder for its socket and pid file.
    """

    def __init__(self, model: Model, files: Model, adapter: Adapter, runtime: Path) -> None:
        self._lock = lock_shared(model.path)
        name = file_name()
        self.socket = runtime / f"{name}.sock"
        self.stage: str | None = None
        self._folder: Path | None = None
        self._files = files
        self._adapter = adapter
        self._process = EngineProcess(
            f"{adapter.name}/{files.name}", runtime / f"{name}.pid", self._read_line
        )

    @property
    def pid(self) -> int | None:
        """Pid of the engine process, None until it is started."""
        return self._process.pid

    @property
    def tail(self) -> list[str]:
        """The last lines of the output."""
        return self._process.tail

    async def begin(self, settings: Settings, sizing: Sizing) -> None:
        """Start the process and wait until it has generated a token or an embedding.

        Args:
            settings: the service's settings.
            sizing: the sizing that fits into the memory budget.

        Raises:
            NotReady: it ended, took too long, or sent an invalid response.
            ServiceError, StartError: it did not start.
        """
        adapter, limit = self._adapter, settings.load_timeout
        path, body, expected = _warm_up(adapter, self._files)
        launch = adapter.launch(self._files, sizing, self.socket)
        gpus = gpu_variables(settings.models.of(self._files.name))
        launch = replace(launch, env={**launch.env, **gpus})
        self._folder = launch.folder
        try:
            async with asyncio.timeout(limit):
                await self._process.start(launch)
                await wait_until_ready(self._process, self.socket, path, body, expected)
        except TimeoutError:
            raise NotReady(
                f"it was not ready within LOAD_TIMEOUT={limit:g} seconds. Raise LOAD_TIMEOUT, or "
                "choose a smaller model"
            ) from None
        self.stage = None
        self._process.is_private = not settings.log_prompts

    async def wait(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        return await self._process.wait()

    @property
    def has_ended(self) -> bool:
        return self._process.has_ended

    async def wait_for_exit_reason(self) -> None:
        """Wait until the process has responded to a health check or has ended."""
        await wait_until_listening(self._process, self.socket)

    async def read_steps(self, timeout: float) -> tuple[bool, StepReading | None]:
        """Read the step counter of the engine.

        Returns:
            Whether it responded in time, and its counters, None if it reports none.
        """
        answer = await fetch_metrics(self.socket, timeout)
        if answer is None:
            return False, None
        return True, self._adapter.read_steps(answer)

    async def can_generate(self, timeout: float) -> bool:
        """Whether it generates a token or an embedding within `timeout` seconds."""
        path, body, expected = _warm_up(self._adapter, self._files)
        return await wait_for_token(self.socket, path, body, expected, timeout)

    async def stop(self, grace: float | None = None) -> None:
        """Stop the process; arguments as in `EngineProcess.stop`."""
        await (self._process.stop() if grace is None else self._process.stop(grace))

    def close(self) -> None:
        """Remove the socket and other files, and allow a removal of the model. Idempotent."""
        self.socket.unlink(missing_ok=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _read_line(self, line: str) -> None:
        try:
            self.stage = self._adapter.stage(line) or self.stage
        except Exception:  # code of an extra engine must not stop the reader
            log.exception("engine output not parsed", engine=self._adapter.name)
