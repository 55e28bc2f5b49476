"""One model on one engine, over restarts of its process: its state, process and admission queue.

Only the supervisor's event loop uses an Engine, so it needs no locks.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.engines.adapter import Adapter, Sizing
from vllm_obtain.engines.selection import EngineChoice
from vllm_obtain.engines.step_counter import StepReading
from vllm_obtain.errors import ServiceError
from vllm_obtain.hardware.host import oom_kills
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.metrics.registry import MetricsRegistry
from vllm_obtain.models import Model
from vllm_obtain.supervisor.engine.backoff import SETTLED, Backoff
from vllm_obtain.supervisor.engine.conversion import convert
from vllm_obtain.supervisor.engine.engine_run import EngineRun, file_name
from vllm_obtain.supervisor.engine.load_errors import describe_exit, explain
from vllm_obtain.supervisor.engine.readiness import KilledExternally
from vllm_obtain.supervisor.engine.states import EngineState
from vllm_obtain.supervisor.scheduling.admission import AdmissionQueue
from vllm_obtain.supervisor.scheduling.quarantine import InFlight, caused_itself
from vllm_obtain.supervisor.scheduling.waiting_room import WaitingRoom

log = get_logger("vllm_obtain.models")

# Seconds between SIGTERM and SIGKILL after a failed load or a stall: no requests can finish.
ABANDON_GRACE = 0.2
# Start attempts of one load, if the process is killed externally while it loads.
START_ATTEMPTS = 2
# Exit status of a process that the system killed because memory was short.
OOM_KILLED = 128 + signal.SIGKILL


class Engine:
    """A model on an engine. It outlives its processes.

    Args:
        choice: the model and its engine.
        settings: the service's settings.
        runtime: folder for sockets and pid files.
        metrics: counts restarts and load times.
        waiting_room: queue of the model's requests while no engine is ready.
        on_crash: called after a ready process ended unexpectedly, with its exit status and the
            requests in flight that may have caused it; none if it was killed externally.
    """

    def __init__(
        self,
        choice: EngineChoice,
        settings: Settings,
        runtime: Path,
        metrics: MetricsRegistry,
        waiting_room: WaitingRoom,
        on_crash: Callable[[Engine, int, list[InFlight]], None],
    ) -> None:
        self.choice = choice
        self.files = choice.model
        self.state = EngineState.STOPPED
        self.admission: AdmissionQueue | None = None
        # Capacity of the last process that was ready.
        self.limits: EngineLimits | None = None
        self.loaded_at = 0.0
        self.load_seconds: float | None = None
        self.last_used = time.monotonic()
        self.restarts = 0
        self.last_error: str | None = None
        self.backoff = Backoff()
        self.idle = asyncio.Event()
        self.idle.set()
        self._settings = settings
        self._runtime = runtime
        self._metrics = metrics
        self._waiting_room = waiting_room
        self._on_crash = on_crash
        # Seconds without a step although it has requests.
        self.quiet = 0.0
        self.stalls = 0
        # The system's counter when the process was started.
        self._oom_kills = 0
        self._stop_reason: str | None = None
        # What the memory budget accepted for the next process, and the bytes reserved for it.
        self.sizing: Sizing | None = None
        self.reserved = 0
        self._run: EngineRun | None = None
        self._conversion_stage: str | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._liveness_check: asyncio.Task[None] | None = None

    @property
    def model(self) -> Model:
        """The model. `files` is what the process loads, which may be a conversion of it."""
        return self.choice.model

    @property
    def adapter(self) -> Adapter:
        return self.choice.adapter

    @property
    def pid(self) -> int | None:
        """Pid of the engine process, None without one."""
        return self._run.pid if self._run else None

    @property
    def socket(self) -> Path | None:
        """Path of its socket, None without a process."""
        return self._run.socket if self._run else None

    @property
    def stage(self) -> str | None:
        """Progress of a conversion or a start, as text."""
        return self._run.stage if self._run else self._conversion_stage

    @property
    def users(self) -> int:
        """Number of running and queued requests of the process."""
        return self.admission.in_flight + self.admission.queue if self.admission else 0

    @property
    def waiting(self) -> int:
        """Number of requests that wait for the model's next process."""
        return self._waiting_room.queue

    @property
    def queue_for_new_requests(self) -> AdmissionQueue:
        """The queue of the process if it accepts requests, else that of the waiting room."""
        if self.is_accepting and self.admission is not None:
            return self.admission
        return self._waiting_room.admission

    @property
    def is_accepting(self) -> bool:
        return self.state is EngineState.READY and self._liveness_check is None

    @property
    def _labels(self) -> dict[str, str]:
        return {"model": self.model.name, "engine": self.adapter.name}

    @property
    def healthy(self) -> bool:
        """Whether it makes progress: the time without a step is below half of STALL_SECONDS."""
        return not self.quiet or self.quiet < self._settings.stall_seconds / 2

    def set_choice(self, choice: EngineChoice) -> None:
        """Set what the next process loads. A new revision resets the backoff."""
        if choice.model.revision != self.model.revision:
            self.backoff.reset()
        self.choice = choice

    def relocate(self, new_path: Callable[[Model], Model]) -> None:
        """Update the paths of its files, for the next process."""
        self.choice = replace(self.choice, model=new_path(self.model))
        self.files = new_path(self.files)

    def note_activity(self) -> None:
        """Record a change of users: the time of the last use, and whether the engine is idle."""
        self.last_used = time.monotonic()
        if self.users:
            self.idle.clear()
        else:
            self.idle.set()

    async def prepare(self) -> None:
        """Convert the model's files if this engine needs it and no conversion exists.

        Raises:
            ServiceError: the conversion failed.
        """
        self.files = self.model
        if self.choice.conversion is None:
            return
        pidfile = self._runtime / f"{file_name()}.pid"
        try:
            self.files = await convert(
                self.model, self.choice.conversion, pidfile, self._report_conversion
            )
        except Exception as error:
            raise self._fail(error, []) from error
        except asyncio.CancelledError:
            self._reset(EngineState.STOPPED)
            raise

    async def start(self) -> None:
        """Start the process and wait until it has generated a token.

        Raises:
            ServiceError: it ended, took too long or did not start. The message has the last lines
                of
                its output.
        """
        for _ in range(1, START_ATTEMPTS):
            try:
                await self._start()
            except KilledExternally as error:
                log.warning("engine start interrupted", reason=str(error), **self._labels)
            else:
                return
        await self._start(last=True)

    async def _start(self, last: bool = False) -> None:
        """Start the process once. An external kill is retried unless this is the last attempt.

        Raises:
            ServiceError: as in `start`.
            KilledExternally: the process was killed externally.
        """
        assert self.sizing is not None  # noqa: S101 - the loader reserves memory first
        started_at, sizing = time.monotonic(), self.sizing
        self.state = EngineState.STARTING
        log.info("load started", reason=self.choice.reason, **self._labels)
        self._oom_kills = oom_kills()
        run = self._run = EngineRun(self.model, self.files, self.adapter, self._runtime)
        try:
            await run.begin(self._settings, sizing)
        except Exception as error:
            if isinstance(error, KilledExternally) and not last:
                await asyncio.shield(run.stop(ABANDON_GRACE))
                run.close()
                raise
            await asyncio.shield(run.stop(ABANDON_GRACE))
            raise self._fail(error, run.tail) from error
        except asyncio.CancelledError:
            await asyncio.shield(run.stop(ABANDON_GRACE))
            self._reset(EngineState.STOPPED)
            raise
        self._start_admission(run, sizing.limits, time.monotonic() - started_at)

    def suspect(self) -> None:
        """Pause admission after a broken connection, until it is known whether the process runs.

        A connection breaks before the end of the process is noticed here, and a retried request
        would go to the same process.
        """
        if (
            self.state is EngineState.READY
            and self._liveness_check is None
            and self._run is not None
        ):
            self._liveness_check = asyncio.create_task(self._check_liveness(self._run))

    async def read_steps(self, timeout: float) -> tuple[bool, StepReading | None]:
        """Read its step counter, as in `EngineRun.read_steps`."""
        return await self._run.read_steps(timeout) if self._run is not None else (False, None)

    async def can_generate(self, timeout: float) -> bool:
        """Whether it generates a token within `timeout` seconds."""
        return self._run is not None and await self._run.can_generate(timeout)

    async def end(self, reason: str) -> None:
        """Stop a faulty process. It is restarted as after a crash.

        Args:
            reason: the fault.
        """
        if self._run is None:
            return
        self._stop_reason = reason
        self.stalls += 1
        self._metrics.count_stall(self.model.name, self.adapter.name)
        await self._run.stop(ABANDON_GRACE)

    @property
    def paused(self) -> bool:
        return self.admission is not None and self.admission.paused

    def pause(self, paused: bool) -> None:
        """Pause or resume admission. New requests wait."""
        if self.admission is not None and self.admission.paused != paused:
            self.admission.pause(paused)

    def retire(self) -> None:
        """Stop admission, since another engine serves. Queued requests go to that one."""
        self.state = EngineState.DRAINING
        if self.admission is not None:
            self.admission.close()
        self.note_activity()

    async def drain(self) -> None:
        """Wait for the requests in flight, then stop. New requests wait for the next process."""
        self.state = EngineState.DRAINING
        await self.idle.wait()
        await self.stop()

    async def stop(self) -> None:
        """Stop the process now."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        if self._run is not None:
            await self._run.stop()
            log.info("model unloaded", **self._labels)
        self._reset(EngineState.STOPPED)

    def give_up(self, reason: ServiceError, state: EngineState = EngineState.FAILED) -> None:
        """Record that no process will start for now.

        Args:
            reason: the reason.
            state: the new state, if the engine has no process.
        """
        if self._run is None:
            self.state = state
            self.last_error = reason.message if state is EngineState.FAILED else None

    def _start_admission(self, run: EngineRun, limits: EngineLimits, seconds: float) -> None:
        self.limits = limits
        self.load_seconds = seconds
        self.loaded_at = time.time()
        self.last_error = None
        # Waiting requests are admitted at once, so the engine is not evicted before them.
        self.admission = self._waiting_room.take()
        self.state = EngineState.READY
        self.admission.open(limits, self.adapter.name, self.adapter.isolates_by_slot)
        self.note_activity()
        self._watcher = asyncio.create_task(self._watch(run))
        self._metrics.count_load(self.model.name, self.adapter.name, seconds)
        log.info("model loaded", engine_pid=run.pid, seconds=round(seconds, 2), **self._labels)

    def _fail(self, error: Exception, output: list[str]) -> ServiceError:
        failure = explain(error, self.model.name, self.adapter.name, output)
        self._reset(EngineState.FAILED)
        self.last_error = failure.message
        log.error("model load failed", reason=failure.message, output=output, **self._labels)
        return failure

    def _report_conversion(self, stage: str) -> None:
        self.state, self._conversion_stage = EngineState.CONVERTING, stage

    async def _check_liveness(self, run: EngineRun) -> None:
        await run.wait_for_exit_reason()
        self._liveness_check = None
        if self.state is EngineState.READY:
            if self.admission is not None and not run.has_ended:
                self.admission.clear_suspicion()
            self._waiting_room.dismiss()

    async def _watch(self, run: EngineRun) -> None:
        status = await run.wait()
        self._watcher = None
        self.restarts += 1
        forced, self._stop_reason = self._stop_reason, None
        was_out_of_memory = status == OOM_KILLED and oom_kills() > self._oom_kills
        if forced or caused_itself(status) or time.time() - self.loaded_at < SETTLED:
            self.backoff.record_crash()
        self.last_error = forced or describe_exit(status)
        if was_out_of_memory:
            self.last_error += ", probably by the system, which ran out of memory"
        log.error(
            "engine stopped" if forced else "engine crashed",
            status=status,
            reason=self.last_error,
            in_flight=self.users,
            output=run.tail[-10:],
            **self._labels,
        )
        self._metrics.count_crash(self.model.name, self.adapter.name)
        was_draining = self.state is EngineState.DRAINING
        is_own_fault = bool(forced) or caused_itself(status) or was_out_of_memory
        in_flight = (
            self.admission.in_flight_requests if self.admission is not None and is_own_fault else []
        )
        self._reset(EngineState.STOPPED if was_draining else EngineState.CRASHED)
        self._on_crash(self, status, in_flight)

    def _reset(self, state: EngineState) -> None:
        self.state, self._conversion_stage, self.quiet = state, None, 0.0
        if self._run is not None:
            self._run.close()
            self._run = None
        if self._liveness_check is not None:
            self._liveness_check.cancel()
            self._liveness_check = None
        if self.admission is not None:
            self.admission.close()
            self.admission = None
        self.note_activity()
