"""One model's engine over its restarts: its state, its process, and who may use it.

Only the supervisor's loop touches an Engine, so no state here needs a lock.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from vllm_obtain.catalogue import Model
from vllm_obtain.engines.base import Adapter, Launch
from vllm_obtain.errors import EngineFailed
from vllm_obtain.hardware import describe
from vllm_obtain.log import get_logger
from vllm_obtain.metrics import Numbers
from vllm_obtain.protocol.requests import CompletionRequest
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.admission import Admission
from vllm_obtain.supervisor.probe import first_token, healthy
from vllm_obtain.supervisor.process import EngineProcess
from vllm_obtain.supervisor.runtime import prefix
from vllm_obtain.supervisor.states import State

log = get_logger("vllm_obtain.models")

PROBE_INTERVAL = 0.05
CRASH_WINDOW = 300.0
MAX_BACK_OFF = 30.0
_WARM_UP = CompletionRequest(prompt="Hello", temperature=0, max_tokens=1)
_numbers = itertools.count(1)


class Engine:
    """A model on an engine.

    Args:
        model: what it serves.
        adapter: how its engine is started and asked.
        settings: the owner's settings.
        runtime: folder for sockets and pid files.
        numbers: where restarts and load times are counted.
        crashed: called when the process ended by itself after it had been ready.
    """

    def __init__(
        self,
        model: Model,
        adapter: Adapter,
        settings: Settings,
        runtime: Path,
        numbers: Numbers,
        crashed: Callable[[Engine], None],
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.state = State.STOPPED
        self.admission: Admission | None = None
        self.launched: Launch | None = None
        self.socket = Path()
        self.loaded_at = 0.0
        self.load_seconds: float | None = None
        self.last_used = time.monotonic()
        self.restarts = 0
        self.last_error: str | None = None
        self.idle = asyncio.Event()
        self.idle.set()
        self._settings = settings
        self._runtime = runtime
        self._count = numbers
        self._crashed = crashed
        self._process: EngineProcess | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._crashes: deque[float] = deque(maxlen=16)

    @property
    def pid(self) -> int | None:
        """The engine's process, None when there is none."""
        return self._process.pid if self._process else None

    @property
    def users(self) -> int:
        """Requests that hold a place or wait for one."""
        return self.admission.in_flight + self.admission.queue if self.admission else 0

    @property
    def back_off(self) -> float:
        """Seconds until the next start is due: none after one crash, then 1, 2, 4, …"""
        now = time.monotonic()
        recent = [moment for moment in self._crashes if now - moment < CRASH_WINDOW]
        if len(recent) <= 1:
            return 0.0
        pause = min(MAX_BACK_OFF, 2.0 ** (len(recent) - 2))
        return max(0.0, recent[-1] + pause - now)

    def touch(self) -> None:
        """Note a change of users: the time for eviction, and whether anybody is left."""
        self.last_used = time.monotonic()
        if self.users:
            self.idle.clear()
        else:
            self.idle.set()

    async def start(self) -> None:
        """Start the process and wait until a token came out of it.

        Raises:
            EngineFailed: it ended or took too long; the message has its last lines.
        """
        began = time.monotonic()
        number = next(_numbers)
        name = f"{prefix()}{number}"
        self.socket = self._runtime / f"{name}.sock"
        self.state = State.STARTING
        log.info("loading", model=self.model.name, engine=self.adapter.name)
        process = EngineProcess(
            f"{self.adapter.name}/{self.model.name}", self._runtime / f"{name}.pid"
        )
        self._process = process
        try:
            self.launched = self.adapter.launch(self.model, self._settings, describe(), self.socket)
            await process.start(self.launched)
            await self._until_ready(process)
        except BaseException as error:
            await self._abandon(process, error)
            raise
        process.note_pid()
        self.load_seconds = time.monotonic() - began
        self.loaded_at = time.time()
        self.last_error = None
        self.admission = Admission(self.launched.limits)
        self.state = State.READY
        self._count.loaded(self.model.name, self.adapter.name, self.load_seconds)
        self._watcher = asyncio.create_task(self._watch(process))
        log.info(
            "ready",
            model=self.model.name,
            engine=self.adapter.name,
            engine_pid=process.pid,
            seconds=round(self.load_seconds, 2),
        )

    async def drain(self) -> None:
        """Finish what is in flight, then stop; new requests wait for a successor."""
        self.state = State.DRAINING
        await self.idle.wait()
        await self.stop()

    async def stop(self) -> None:
        """End the process now."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        if self._process is not None:
            await self._process.stop()
            log.info("unloaded", model=self.model.name, engine=self.adapter.name)
        self._forget(State.STOPPED)

    async def _until_ready(self, process: EngineProcess) -> None:
        ending = asyncio.create_task(process.wait())
        probing = asyncio.create_task(self._probe())
        try:
            done, _ = await asyncio.wait(
                {ending, probing},
                timeout=self._settings.load_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            probing.cancel()
            ending.cancel()
        if not done:
            raise EngineFailed(
                f"Loading '{self.model.name}' took longer than LOAD_TIMEOUT="
                f"{self._settings.load_timeout:g} seconds. Raise it, or choose a smaller model.",
                status=503,
                code="model_load_failed",
            )
        if ending in done:
            raise self._load_failure(process, f"it exited with status {ending.result()}")
        if (problem := probing.result()) is not None:
            raise self._load_failure(process, problem)

    async def _probe(self) -> str | None:
        while not await healthy(self.socket):
            await asyncio.sleep(PROBE_INTERVAL)
        body = self.adapter.completion_body(_WARM_UP, 1)
        return await first_token(self.socket, self.adapter.completion_path, body)

    def _load_failure(self, process: EngineProcess, problem: str) -> EngineFailed:
        said = " | ".join(process.tail[-4:]) or "(it said nothing)"
        return EngineFailed(
            f"'{self.model.name}' could not be loaded by {self.adapter.name}: {problem}. "
            f"Its last lines: {said}",
            status=503,
            code="model_load_failed",
            retry=False,
        )

    async def _abandon(self, process: EngineProcess, error: BaseException) -> None:
        await asyncio.shield(process.stop(grace=0.2))
        self.last_error = str(error) or type(error).__name__
        self._forget(State.FAILED)
        log.error(
            "load failed",
            model=self.model.name,
            engine=self.adapter.name,
            reason=self.last_error,
            output=process.tail,
        )

    async def _watch(self, process: EngineProcess) -> None:
        status = await process.wait()
        self._watcher = None
        self.restarts += 1
        self._crashes.append(time.monotonic())
        self.last_error = f"ended by itself with status {status}{_signal_name(status)}"
        log.error(
            "engine crashed",
            model=self.model.name,
            engine=self.adapter.name,
            status=status,
            reason=self.last_error,
            in_flight=self.users,
            output=process.tail[-10:],
        )
        self._count.crashed(self.model.name, self.adapter.name)
        was_leaving = self.state is State.DRAINING
        self._forget(State.STOPPED if was_leaving else State.CRASHED)
        if not was_leaving:
            self._crashed(self)

    def _forget(self, state: State) -> None:
        self.state = state
        self._process = None
        self.socket.unlink(missing_ok=True)
        if self.admission is not None:
            self.admission.close()
            self.admission = None
        self.touch()


def _signal_name(status: int) -> str:
    names = {134: "SIGABRT", 137: "SIGKILL", 139: "SIGSEGV", 143: "SIGTERM"}
    return f" ({names[status]})" if status in names else ""
