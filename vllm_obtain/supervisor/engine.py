"""One model on one engine over its restarts: its state, its process, and who may use it.

Only the supervisor's loop touches an Engine, so no state here needs a lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm_obtain.catalogue import Model
from vllm_obtain.chat.speaker import capabilities
from vllm_obtain.engines.base import Adapter, Launch
from vllm_obtain.engines.choice import Choice
from vllm_obtain.engines.vitals import Vitals
from vllm_obtain.errors import ServiceError
from vllm_obtain.log import get_logger
from vllm_obtain.messages import Limits
from vllm_obtain.metrics import Numbers
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.admission import Admission
from vllm_obtain.supervisor.back_off import SETTLED, BackOff
from vllm_obtain.supervisor.conversion import convert
from vllm_obtain.supervisor.life import Life, file_name
from vllm_obtain.supervisor.load_failure import ended, explain
from vllm_obtain.supervisor.lobby import Lobby
from vllm_obtain.supervisor.probe import Killed
from vllm_obtain.supervisor.quarantine import caused_itself
from vllm_obtain.supervisor.states import State

log = get_logger("vllm_obtain.models")

# A load that failed has nobody to be polite to.
ABANDON_GRACE = 0.2
# Starts of one load, when somebody kills the process from outside while it loads.
STARTS = 2


class Engine:
    """A model on an engine.

    Args:
        choice: what it serves, and by what.
        settings: the owner's settings.
        runtime: folder for sockets and pid files.
        numbers: where restarts and load times are counted.
        lobby: who waits for the model's next process.
        crashed: called when the process ended by itself after it had been ready, with its status
            and the fingerprints of what it had.
    """

    def __init__(
        self,
        choice: Choice,
        settings: Settings,
        runtime: Path,
        numbers: Numbers,
        lobby: Lobby,
        crashed: Callable[[Engine, int, list[bytes]], None],
    ) -> None:
        self.choice = choice
        self.files = choice.model
        self.state = State.STOPPED
        self.admission: Admission | None = None
        self.launched: Launch | None = None
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
        self._lobby = lobby
        self._crashed = crashed
        # Seconds in which it has made no step, though it has work.
        self.quiet = 0.0
        self.stalls = 0
        self._ended_for: str | None = None
        # Bytes that the ledger holds for it, and what it takes the machine's memory to be.
        self.reserved = 0
        self.memory: int | None = None
        self._life: Life | None = None
        self._converted: str | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._doubt: asyncio.Task[None] | None = None

    @property
    def model(self) -> Model:
        """What it serves; `files` is what its process loads, which may be a conversion of it."""
        return self.choice.model

    @property
    def adapter(self) -> Adapter:
        """How it is started and asked."""
        return self.choice.adapter

    @property
    def pid(self) -> int | None:
        """The engine's process, None when there is none."""
        return self._life.pid if self._life else None

    @property
    def socket(self) -> Path | None:
        """Where it listens, None when it does not run."""
        return self._life.socket if self._life else None

    @property
    def stage(self) -> str | None:
        """How far a conversion or a start is, in a few words."""
        return self._life.stage if self._life else self._converted

    @property
    def users(self) -> int:
        """Requests that hold a place in the process or wait for one."""
        return self.admission.in_flight + self.admission.queue if self.admission else 0

    @property
    def expected(self) -> int:
        """Requests that wait for the model's next process."""
        return self._lobby.queue

    @property
    def incoming(self) -> Admission:
        """Where a new request waits: at the process that is ready, else for the next one."""
        if self.admits and self.admission is not None:
            return self.admission
        return self._lobby.admission

    @property
    def admits(self) -> bool:
        """Whether requests may go to its process now."""
        return self.state is State.READY and self._doubt is None

    def _talks(self) -> dict[str, Any]:
        file = self._settings.models.of(self.model.name).chat_template
        return capabilities(self.model, file) or {}

    @property
    def _labels(self) -> dict[str, str]:
        return {"model": self.model.name, "engine": self.adapter.name}

    @property
    def healthy(self) -> bool:
        """Whether it makes steps, as far as is known: not once it is near STALL_SECONDS."""
        return not self.quiet or self.quiet < self._settings.stall_seconds / 2

    def serve(self, choice: Choice) -> None:
        """Take what the next process shall load; another revision has not crashed yet."""
        if choice.model.revision != self.model.revision:
            self.back_off.forget()
        self.choice = choice

    def relocate(self, moved: Callable[[Model], Model]) -> None:
        """Note that its files have another place, where its next process finds them."""
        self.choice = replace(self.choice, model=moved(self.model))
        self.files = moved(self.files)

    def touch(self) -> None:
        """Note a change of users: the time for eviction, and whether anybody is left."""
        self.last_used = time.monotonic()
        if self.users:
            self.idle.clear()
        else:
            self.idle.set()

    async def prepare(self) -> None:
        """Have the model's files converted, if this engine needs that and it was not done.

        Raises:
            ServiceError: they cannot be.
        """
        self.files = self.model
        if self.choice.conversion is None:
            return
        pidfile = self._runtime / f"{file_name()}.pid"
        try:
            self.files = await convert(
                self.model, self.choice.conversion, pidfile, self._converting
            )
        except Exception as error:
            raise self._fail(error, []) from error
        except asyncio.CancelledError:
            self._forget(State.STOPPED)
            raise

    async def start(self) -> None:
        """Start the process and wait until a token came out of it.

        Raises:
            ServiceError: it ended, took too long or could not be started; the message has its
                last lines.
        """
        for _ in range(1, STARTS):
            try:
                await self._start()
            except Killed as error:
                log.warning("killed while it started", reason=str(error), **self._labels)
            else:
                return
        await self._start(last=True)

    async def _start(self, last: bool = False) -> None:
        """Start a process; that somebody killed it is told as it is, unless this is the last try.

        Raises:
            ServiceError: as `start` does.
            Killed: it was ended from outside.
        """
        began = time.monotonic()
        self.state = State.STARTING
        log.info("loading", reason=self.choice.reason, **self._labels)
        life = self._life = Life(self.files, self.adapter, self._runtime)
        try:
            self.launched = await life.begin(self._settings, self.memory)
        except Exception as error:
            if isinstance(error, Killed) and not last:
                await asyncio.shield(life.stop(ABANDON_GRACE))
                life.socket.unlink(missing_ok=True)
                raise
            await asyncio.shield(life.stop(ABANDON_GRACE))
            raise self._fail(error, life.tail) from error
        except asyncio.CancelledError:
            await asyncio.shield(life.stop(ABANDON_GRACE))
            self._forget(State.STOPPED)
            raise
        self._open(life, self.launched.limits, time.monotonic() - began)

    def doubt(self) -> None:
        """Admit nobody until it is known whether the process lives: a connection to it broke.

        Its end shows there before it is seen here, and a request that is asked again would be
        sent to the same process.
        """
        if self.state is State.READY and self._doubt is None and self._life is not None:
            self._doubt = asyncio.create_task(self._resolve(self._life))

    async def vitals(self, timeout: float) -> tuple[bool, Vitals | None]:
        """Look at its counters, as `Life.vitals`."""
        return await self._life.vitals(timeout) if self._life is not None else (False, None)

    async def says_something(self, timeout: float) -> bool:
        """Whether a token comes out of it within `timeout` seconds."""
        return self._life is not None and await self._life.says_something(timeout)

    async def end(self, reason: str) -> None:
        """End the process for its own good; it starts again as after a crash.

        Args:
            reason: what is wrong with it.
        """
        if self._life is None:
            return
        self._ended_for = reason
        self.stalls += 1
        self._count.stalled(self.model.name, self.adapter.name)
        await self._life.stop(ABANDON_GRACE)

    @property
    def paused(self) -> bool:
        """Whether it gets no new requests for now."""
        return self.admission is not None and self.admission.paused

    def pause(self, paused: bool) -> None:
        """Give it no new requests until told otherwise; they wait."""
        if self.admission is not None and self.admission.paused != paused:
            self.admission.pause(paused)

    def retire(self) -> None:
        """Take no more requests: another engine serves. Who waits for a place asks that one."""
        self.state = State.DRAINING
        if self.admission is not None:
            self.admission.close()
        self.touch()

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
        if self._life is not None:
            await self._life.stop()
            log.info("unloaded", **self._labels)
        self._forget(State.STOPPED)

    def give_up(self, reason: ServiceError, state: State = State.FAILED) -> None:
        """Note that there will be no next process for now.

        Args:
            reason: why.
            state: of an engine without a process from now on.
        """
        if self._life is None:
            self.state = state
            self.last_error = reason.message if state is State.FAILED else None

    def _open(self, life: Life, limits: Limits, seconds: float) -> None:
        """Let requests in."""
        self.load_seconds = seconds
        self.loaded_at = time.time()
        self.last_error = None
        # Those who waited are in before anybody can think of evicting them.
        self.admission = self._lobby.take()
        self.admission.engine = self
        self.state = State.READY
        self.admission.open(limits)
        self.touch()
        self._watcher = asyncio.create_task(self._watch(life))
        self._count.loaded(self.model.name, self.adapter.name, seconds)
        log.info("ready", engine_pid=life.pid, seconds=round(seconds, 2), **self._labels)
        log.info("talks", **self._talks(), **self._labels)

    def _fail(self, error: Exception, output: list[str]) -> ServiceError:
        failure = explain(error, self.model.name, self.adapter.name, output)
        self._forget(State.FAILED)
        self.last_error = failure.message
        log.error("load failed", reason=failure.message, output=output, **self._labels)
        return failure

    def _converting(self, stage: str) -> None:
        self.state, self._converted = State.CONVERTING, stage

    async def _resolve(self, life: Life) -> None:
        await life.until_known()
        self._doubt = None
        if self.state is State.READY:
            if self.admission is not None and not life.has_ended:
                self.admission.believe()
            self._lobby.dismiss()

    async def _watch(self, life: Life) -> None:
        status = await life.wait()
        self._watcher = None
        self.restarts += 1
        forced, self._ended_for = self._ended_for, None
        if forced or caused_itself(status) or time.time() - self.loaded_at < SETTLED:
            self.back_off.crashed()
        self.last_error = forced or ended(status)
        log.error(
            "engine ended" if forced else "engine crashed",
            status=status,
            reason=self.last_error,
            in_flight=self.users,
            output=life.tail[-10:],
            **self._labels,
        )
        self._count.crashed(self.model.name, self.adapter.name)
        was_leaving = self.state is State.DRAINING
        # One that was ended from here says nothing of what it had.
        there = self.admission.there if self.admission is not None and not forced else []
        self._forget(State.STOPPED if was_leaving else State.CRASHED)
        self._crashed(self, status, there)

    def _forget(self, state: State) -> None:
        self.state, self._converted, self.quiet = state, None, 0.0
        if self._life is not None:
            self._life.socket.unlink(missing_ok=True)
            self._life = None
        if self._doubt is not None:
            self._doubt.cancel()
            self._doubt = None
        if self.admission is not None:
            self.admission.close()
            self.admission = None
        self.touch()
