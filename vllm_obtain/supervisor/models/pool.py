"""The pool of models: loads, switches, reloads and unloads them.

All code here runs on the supervisor's event loop. `loader` starts engines, and `eviction` makes
room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import LoadModel, LoadStatus, UnloadModel
from vllm_obtain.engines.detection import detect
from vllm_obtain.engines.selection import EngineChoice
from vllm_obtain.errors import EngineFailed, InternalError, ServiceError
from vllm_obtain.metrics.registry import MetricsRegistry
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.supervisor.background_tasks import BackgroundTasks
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.engine.load_errors import busy, superseded, unloaded
from vllm_obtain.supervisor.engine.stall_watchdog import StallWatchdog
from vllm_obtain.supervisor.engine.states import OCCUPIES, EngineState
from vllm_obtain.supervisor.handlers import Handlers
from vllm_obtain.supervisor.memory.budget import MemoryBudget
from vllm_obtain.supervisor.memory.footprint import FootprintWatchdog
from vllm_obtain.supervisor.memory.pressure import MemoryPressureMonitor
from vllm_obtain.supervisor.memory.sampler import ResourceSampler
from vllm_obtain.supervisor.models.eviction import CapacityManager
from vllm_obtain.supervisor.models.hot_reload import HotReload
from vllm_obtain.supervisor.models.idle_unloader import IdleUnloader
from vllm_obtain.supervisor.models.loader import Commit, Loader
from vllm_obtain.supervisor.models.model_entry import ModelEntry
from vllm_obtain.supervisor.models.resolver import ModelResolver
from vllm_obtain.supervisor.models.switch_history import SwitchHistory
from vllm_obtain.supervisor.scheduling.quarantine import InFlight, Quarantine

Work = Callable[[], Coroutine[Any, Any, None]]

AUTO = "auto"
# Crashes within `backoff.WINDOW` after which failover starts.
MAX_CRASHES = 3


class Pool:
    """The models of one service and their engines.

    Args:
        settings: the service's settings.
        catalogue: the models on disk.
        runtime: folder for the engines' sockets.
        metrics: counts loads, crashes and switches.
        sampler: measures memory.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: ModelCatalog,
        runtime: Path,
        metrics: MetricsRegistry,
        sampler: ResourceSampler,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._metrics = metrics
        self._entries: dict[str, ModelEntry] = {}
        self._tasks = BackgroundTasks()
        # Not asyncio's default threads, since a stop would wait for a hanging probe.
        self._probe_thread = ThreadPoolExecutor(1, "probes")
        self._closing = False
        self.switches = SwitchHistory(metrics)
        self.quarantine = Quarantine(settings.quarantine_seconds)
        self._resolver = ModelResolver(settings, catalogue)
        self._capacity = CapacityManager(
            settings.max_concurrent_models, self._entries, self._tasks.spawn
        )
        self.memory_budget = MemoryBudget(settings, lambda: self.engines)
        self._loader = Loader(
            settings,
            self._capacity,
            self._resolver.choices,
            self._create_engine,
            self.switches,
            sampler,
            self.memory_budget,
        )
        self._watchdog = StallWatchdog(settings.stall_seconds, lambda: self.engines)
        self.pressure = MemoryPressureMonitor(
            self.memory_budget.limit, lambda: self.engines, sampler.measure_memory
        )
        self._footprints = FootprintWatchdog(lambda: self.engines, sampler.measure_memory)
        self._idle = IdleUnloader(settings.models, self._entries, self._capacity)
        self.handlers: Handlers = {
            **self.quarantine.handlers,
            LoadModel: self._handle_load,
            UnloadModel: self._handle_unload,
        }

    def watch(self) -> None:
        self._tasks.spawn(self._idle.run())
        self._tasks.spawn(self._watchdog.run())
        self._tasks.spawn(self.pressure.run())
        self._tasks.spawn(self._footprints.run())

    @property
    def engines(self) -> list[Engine]:
        """All engines, including stopped ones."""
        return [engine for entry in self._entries.values() for engine in entry.engines]

    @property
    def engines_with_waiting(self) -> list[tuple[Engine, int]]:
        """All engines, each with the number of requests that wait for its start."""
        return [
            (engine, entry.waiting_room.queue if engine is entry.engine else 0)
            for entry in self._entries.values()
            for engine in entry.engines
        ]

    def identity(self, name: str) -> bytes:
        """Return the engine and revision of a model, on which cached responses depend.

        Raises:
            ServiceError: as in `begin`.
        """
        engine, revision = self._resolver.identity(name, self._entries.get(name))
        return f"{engine}\0{revision}\0".encode()

    def state(self, name: str) -> EngineState:
        """Return the state of the engine that a request for a model would use."""
        entry = self._entries.get(name)
        return entry.state if entry is not None else EngineState.STOPPED

    def is_in_use(self, path: Path) -> bool:
        """Whether a model with these files is loaded or loading, under any name."""
        return any(
            engine.model.path == path
            for entry in self._entries.values()
            for engine in entry.engines
            if engine.state in OCCUPIES or entry.running_work is not None
        )

    def ready_engine(self, name: str) -> Engine | None:
        """Return the engine of a model if it accepts requests now. This is the common case."""
        entry = self._entries.get(name)
        engine = entry.engine if entry is not None else None
        return engine if engine is not None and engine.is_accepting else None

    def ensure_loading(self, name: str) -> Engine:
        """Start loading a model if needed. Requests wait at `Engine.queue_for_new_requests`.

        Raises:
            ServiceError: as in `begin`.
        """
        entry = self._entries.get(name) or self._entry(self._resolver.find(name))
        if entry.ready is None:
            self.begin(entry.name)
        if entry.engine is None:
            entry.engine = self._create_engine(entry, entry.first(self._resolver.choices(entry)))
        return entry.engine

    async def load(self, name: str, engine: str | None = None) -> Engine:
        """Load a model, optionally on a named engine, and wait until it is ready.

        Args:
            name: name of the model.
            engine: as in `begin`.

        Raises:
            ServiceError: as in `begin`, or the load failed.
        """
        if engine is None and (found := self.ready_engine(name)) is not None:
            return found
        # It may be evicted again before this coroutine resumes.
        task = self.begin(name, engine)
        await asyncio.wait({task})
        if task.cancelled():  # before it started
            raise unloaded(name)
        task.result()
        loaded = self._entry(self._resolver.find_cached(name)).engine
        assert loaded is not None  # noqa: S101 - it was ready a moment ago
        return loaded

    def load_status(self, name: str, engine: str | None = None) -> LoadStatus:
        """Start loading a model, and return its status; arguments and errors as in `load`."""
        self.begin(name, engine)
        entry = self._entry(self._resolver.find_cached(name))
        return entry.progress(engine is not None)

    def begin(self, name: str, engine: str | None = None) -> asyncio.Task[None]:
        """Start loading or switching a model, or join the work in progress.

        Args:
            name: name of the model.
            engine: the engine to use. The current one serves until the new one is ready. `auto`
                selects the best engine of this machine, None keeps the current one.

        Raises:
            ModelNotFound: the model does not exist.
            InvalidRequest: the engine does not exist, or a switch to another one is in progress.
            EngineFailed: no engine of this machine supports the model, or the service is stopping.
        """
        if self._closing:
            raise EngineFailed("The service is stopping. Try again.", status=503, retry_after=5)
        if engine is not None:
            return self._begin_switch(self._resolver.find(name), engine)
        if (task := self._running_work(name)) is not None:
            return task
        model = self._resolver.find(name)
        if (task := self._running_work(model.name)) is not None:
            return task
        existing = self._entries.get(model.name)
        choices = self._resolver.ranked(model, existing.named if existing else None)
        entry = self._entry(model)
        entry.target_engine = entry.first(choices).adapter.name
        return self._start_work(entry, lambda: self._loader.load(entry))

    async def reload(self, model: Model, commit: Commit, on_loading: Callable[[], None]) -> None:
        """Replace the files of a model by new ones, which are not installed yet.

        Args:
            model: the new files, under the model's name.
            commit: installs the files: at once if the model is not loaded, else after an engine has
                loaded them, before requests go to it.
            on_loading: called before an engine loads the files.

        Raises:
            ServiceError: the files do not load, or `commit` failed. The old engine serves on.
        """

        def switch(entry: ModelEntry, choice: EngineChoice, commit: Commit) -> asyncio.Task[None]:
            entry.target_engine = choice.adapter.name
            return self._start_work(
                entry, lambda: self._loader.switch(entry, choice, commit), is_switch=True
            )

        def find_entry() -> ModelEntry | None:
            return self._entries.get(model.name)

        reload = HotReload(find_entry, self._capacity, self.load, self._resolver.ranked, switch)
        await reload.run(model, commit, on_loading)

    async def unload(self, name: str) -> EngineState:
        """Unload a model after its requests have finished. A load without requests is cancelled.

        Raises:
            ModelNotFound: the model does not exist.
        """
        entry = self._entries.get(name)
        if entry is None:
            self._resolver.find_cached(name)
            return EngineState.STOPPED
        self._capacity.cancel_load(entry)
        if entry.running_work is not None:
            await asyncio.wait({entry.running_work})
        entry.named = None
        if leaving := self._capacity.drain_all(entry):
            await asyncio.shield(asyncio.gather(*leaving))
            return EngineState.STOPPED
        return entry.state

    async def close(self) -> None:
        """Stop all engines at once, and accept no more loads."""
        self._closing = True
        self._probe_thread.shutdown(wait=False, cancel_futures=True)
        tasks = self._tasks.cancel()
        stops = [engine.stop() for engine in self.engines]
        await asyncio.gather(*tasks, *stops, return_exceptions=True)

    async def _handle_load(self, message: LoadModel) -> LoadStatus:
        if (engine := message.engine) is not None:  # its probe may take a minute
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._probe_thread, detect.warm, [engine], self._settings)
        if not message.wait:
            return self.load_status(message.model, engine)
        loaded = await self.load(message.model, engine)
        return LoadStatus(loaded.adapter.name, EngineState.READY)

    async def _handle_unload(self, message: UnloadModel) -> LoadStatus:
        name = message.model
        engine, _ = self._resolver.identity(name, self._entries.get(name))
        return LoadStatus(engine, await self.unload(name))

    def _begin_switch(self, model: Model, engine: str) -> asyncio.Task[None]:
        choice = self._resolver.ranked(model, None if engine == AUTO else engine)[0]
        target = choice.adapter.name
        entry = self._entry(model)
        running = entry.running_work
        if running is not None and entry.is_switch and entry.target_engine != target:
            raise busy(entry.name, entry.target_engine or "another engine")
        named, entry.named = entry.named, None if engine == AUTO else target
        if running is not None and entry.target_engine == target:
            return running
        entry.target_engine, entry.failover = target, None
        if engine == AUTO:
            entry.reset_failures()
        return self._start_work(
            entry, lambda: self._load_or_switch(entry, choice, named, running), is_switch=True
        )

    async def _load_or_switch(
        self,
        entry: ModelEntry,
        choice: EngineChoice,
        named: str | None,
        running: asyncio.Task[None] | None,
    ) -> None:
        """Load a model on a requested engine, or switch it there."""
        target = choice.adapter.name
        try:
            if running is not None:
                await self._supersede(entry, running, target)
            if entry.ready is None:
                await self._loader.load(entry)
            elif entry.ready.adapter.name != target:
                await self._loader.switch(entry, choice)
        except BaseException:
            entry.named = named
            raise

    async def _supersede(self, entry: ModelEntry, running: asyncio.Task[None], engine: str) -> None:
        """Cancel the load of an automatically selected engine; its requests keep waiting."""
        entry.superseded_by = engine
        try:
            running.cancel()
            await asyncio.wait({running})
        finally:
            entry.superseded_by = None

    def _running_work(self, name: str) -> asyncio.Task[None] | None:
        entry = self._entries.get(name)
        return entry.running_work if entry is not None else None

    def _entry(self, model: Model) -> ModelEntry:
        pinned = self._settings.models.of(model.name).pin
        return self._entries.setdefault(model.name, ModelEntry(model.name, pinned))

    def _create_engine(self, entry: ModelEntry, choice: EngineChoice) -> Engine:
        """Create an engine. It outlives its processes, so that crashes add up."""

        def on_crash(engine: Engine, status: int, in_flight: list[InFlight]) -> None:
            if in_flight:
                self.quarantine.record_crash(entry.name, engine.adapter.name, status, in_flight)
            if engine.state is EngineState.CRASHED:
                self._restart(entry, engine)

        return Engine(
            choice, self._settings, self._runtime, self._metrics, entry.waiting_room, on_crash
        )

    def _start_work(
        self, entry: ModelEntry, work: Work, is_switch: bool = False
    ) -> asyncio.Task[None]:
        def on_done(task: asyncio.Task[None]) -> None:
            if task.cancelled() and entry.superseded_by is None:  # before it started
                entry.give_up(unloaded(entry.name), EngineState.STOPPED)

        entry.is_switch = is_switch
        entry.work = self._tasks.spawn(_run_work(entry, work))
        entry.work.add_done_callback(on_done)
        return entry.work

    def _restart(self, entry: ModelEntry, engine: Engine) -> None:
        async def restart() -> None:
            crashes = engine.backoff.recent
            reason = f"The engine crashed {crashes} times within 5 minutes."
            if crashes < MAX_CRASHES or not self._loader.fail_over(entry, reason):
                await asyncio.sleep(engine.backoff.remaining)
            # Another engine may have replaced it meanwhile, or a request restarted it.
            if entry.engine is engine and engine.state is EngineState.CRASHED:
                await asyncio.wait({self.begin(entry.name)})

        async def restart_or_give_up() -> None:
            try:
                await restart()
            except ServiceError as error:
                entry.give_up(error)

        self._tasks.spawn(restart_or_give_up())


async def _run_work(entry: ModelEntry, work: Work) -> None:
    """Run the work of an entry. If it fails, reject the waiting requests with the reason."""
    try:
        await work()
    except ServiceError as error:
        entry.give_up(error)
        raise
    except asyncio.CancelledError:
        if entry.superseded_by is not None:
            raise superseded(entry.name, entry.superseded_by) from None
        cancelled = unloaded(entry.name)
        entry.give_up(cancelled, EngineState.STOPPED)
        raise cancelled from None
    except Exception:
        entry.give_up(InternalError("The supervisor failed. See errors.log."))
        raise
