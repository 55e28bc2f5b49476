"""One model's engine over its restarts: its state, its process, and who may use it.

Only the supervisor's loop touches an Engine, so no state here needs a lock.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path

from vllm_obtain.catalogue import Model
from vllm_obtain.engines.base import Adapter, Launch
from vllm_obtain.errors import ServiceError
from vllm_obtain.hardware import describe
from vllm_obtain.log import get_logger
from vllm_obtain.metrics import Numbers
from vllm_obtain.protocol.requests import CompletionRequest
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.admission import Admission
from vllm_obtain.supervisor.back_off import BackOff
from vllm_obtain.supervisor.load_failure import explain
from vllm_obtain.supervisor.probe import NotReady, until_ready
from vllm_obtain.supervisor.process import EngineProcess
from vllm_obtain.supervisor.runtime import prefix
from vllm_obtain.supervisor.states import State

log = get_logger("vllm_obtain.models")

# A load that failed has nobody to be polite to.
ABANDON_GRACE = 0.2
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
        self.socket: Path | None = None
        self.loaded_at = 0.0
        self.load_seconds: float | None = None
        self.last_used = time.monotonic()
        self.restarts = 0
        self.last_error: str | None = None
        self.back_off = BackOff()
        self.idle = asyncio.Event()
        self.idle.set()
        self._settings = settings
        self._runtime = runtime
        self._count = numbers
        self._crashed = crashed
        self._process: EngineProcess | None = None
        self._next: Admission | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The engine's process, None when there is none."""
        return self._process.pid if self._process else None

    @property
    def users(self) -> int:
        """Requests that hold a place in the process or wait for one."""
        return self.admission.in_flight + self.admission.queue if self.admission else 0

    @property
    def expected(self) -> int:
        """Requests that wait for the next process."""
        return self._next.queue if self._next else 0

    @property
    def incoming(self) -> Admission:
        """Where a new request waits: at the process that is ready, else for the next one."""
        if self.state is State.READY and self.admission is not None:
            return self.admission
        if self._next is None:
            self._next = Admission()
        return self._next

    @property
    def _labels(self) -> dict[str, str]:
        return {"model": self.model.name, "engine": self.adapter.name}

    def serve(self, model: Model, adapter: Adapter) -> None:
        """Take what the next process shall load; another revision has not crashed yet."""
        if model.revision != self.model.revision:
            self.back_off.forget()
        self.model, self.adapter = model, adapter

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
            ServiceError: it ended, took too long or could not be started; the message has its
                last lines.
        """
        began = time.monotonic()
        name = f"{prefix()}{next(_numbers)}"
        self.socket = socket = self._runtime / f"{name}.sock"
        self.state = State.STARTING
        log.info("loading", **self._labels)
        process = EngineProcess(
            f"{self.adapter.name}/{self.model.name}", self._runtime / f"{name}.pid"
        )
        self._process = process
        try:
            await self._bring_up(process, socket)
        except Exception as error:
            failure = explain(error, self.model.name, self.adapter.name, process.tail)
            await self._abandon(process, State.FAILED)
            self.last_error = failure.message
            log.error("load failed", reason=failure.message, output=process.tail, **self._labels)
            raise failure from error
        except asyncio.CancelledError:
            await self._abandon(process, State.STOPPED)
            raise
        self._open(process, time.monotonic() - began)

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
            log.info("unloaded", **self._labels)
        self._forget(State.STOPPED)

    def give_up(self, reason: ServiceError, state: State = State.FAILED) -> None:
        """Tell those who wait for the next process that there will be none.

        Args:
            reason: what they are told.
            state: of an engine without a process from now on.
        """
        if self._process is None:
            self.state = state
            self.last_error = reason.message if state is State.FAILED else None
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting.close(reason)

    async def _bring_up(self, process: EngineProcess, socket: Path) -> None:
        adapter, limit = self.adapter, self._settings.load_timeout
        body = adapter.completion_body(_WARM_UP, 1)
        self.launched = adapter.launch(self.model, self._settings, describe(), socket)
        try:
            async with asyncio.timeout(limit):
                await process.start(self.launched)
                await until_ready(process, socket, adapter.completion_path, body)
        except TimeoutError:
            raise NotReady(
                f"it was not ready within LOAD_TIMEOUT={limit:g} seconds. Raise it, or choose a "
                "smaller model"
            ) from None

    def _open(self, process: EngineProcess, seconds: float) -> None:
        """Let requests in."""
        assert self.launched is not None  # noqa: S101 - by _bring_up
        self.load_seconds = seconds
        self.loaded_at = time.time()
        self.last_error = None
        # Those who waited are in before anybody can think of evicting them.
        self.admission = self.incoming
        self._next = None
        self.state = State.READY
        self.admission.open(self.launched.limits)
        self.touch()
        self._watcher = asyncio.create_task(self._watch(process))
        self._count.loaded(self.model.name, self.adapter.name, seconds)
        log.info("ready", engine_pid=process.pid, seconds=round(seconds, 2), **self._labels)

    async def _abandon(self, process: EngineProcess, state: State) -> None:
        await asyncio.shield(process.stop(ABANDON_GRACE))
        self._forget(state)

    async def _watch(self, process: EngineProcess) -> None:
        status = await process.wait()
        self._watcher = None
        self.restarts += 1
        self.back_off.crashed()
        self.last_error = f"ended by itself with status {status}{_signal_name(status)}"
        log.error(
            "engine crashed",
            status=status,
            reason=self.last_error,
            in_flight=self.users,
            output=process.tail[-10:],
            **self._labels,
        )
        self._count.crashed(self.model.name, self.adapter.name)
        was_leaving = self.state is State.DRAINING
        self._forget(State.STOPPED if was_leaving else State.CRASHED)
        if not was_leaving:
            self._crashed(self)

    def _forget(self, state: State) -> None:
        self.state = state
        self._process = None
        if self.socket is not None:
            self.socket.unlink(missing_ok=True)
        if self.admission is not None:
            self.admission.close()
            self.admission = None
        self.touch()


def _signal_name(status: int) -> str:
    names = {134: "SIGABRT", 137: "SIGKILL", 139: "SIGSEGV", 143: "SIGTERM"}
    return f" ({names[status]})" if status in names else ""
