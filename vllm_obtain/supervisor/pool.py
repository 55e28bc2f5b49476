"""All engines: who is loaded, and who has to go.

Callers ask for a model to be ready and never decide from its state themselves. Everything here
runs on the supervisor's one loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.engines import registry
from vllm_obtain.engines.base import Adapter
from vllm_obtain.errors import EngineFailed, InternalError, ServiceError
from vllm_obtain.log import get_logger
from vllm_obtain.metrics import Numbers
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.eviction import Occupant, victims
from vllm_obtain.supervisor.load_failure import unloaded
from vllm_obtain.supervisor.states import OCCUPIES, State

log = get_logger("vllm_obtain.models")


class Pool:
    """The engines of one service.

    Args:
        settings: the owner's settings.
        catalogue: the models on disk.
        runtime: folder for the engines' sockets.
        numbers: where everything is counted.
    """

    def __init__(
        self, settings: Settings, catalogue: Catalogue, runtime: Path, numbers: Numbers
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._runtime = runtime
        self._numbers = numbers
        self._engines: dict[str, Engine] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Loads go one after another: two at once would each count on the memory the other takes.
        self._room = asyncio.Lock()
        self._closing = False

    @property
    def engines(self) -> list[Engine]:
        """Every engine that was ever asked for, also those that do not run."""
        return list(self._engines.values())

    def engine_name(self, name: str) -> str:
        """The engine that serves a model, or would; raises as `begin` does."""
        engine = self._engines.get(name)
        return engine.adapter.name if engine is not None else self._choose(name)[1].name

    def identity(self, name: str) -> bytes:
        """What an answer depends on beside the request: the engine and the model's files.

        Raises:
            ServiceError: as `begin` does.
        """
        engine = self._engines.get(name)
        if engine is not None and engine.state in OCCUPIES:
            model, adapter = engine.model, engine.adapter
        else:
            model = self._catalogue.find(name)
            adapter = registry.choose(model, self._settings)
        return f"{adapter.name}\0{model.revision}\0".encode()

    def state(self, name: str) -> State:
        """The state of a model's engine."""
        engine = self._engines.get(name)
        return engine.state if engine is not None else State.STOPPED

    def ready(self, name: str) -> Engine | None:
        """The engine of a model if it is ready; the common case."""
        engine = self._engines.get(name)
        return engine if engine is not None and engine.state is State.READY else None

    def summon(self, name: str) -> Engine:
        """See to it that a model is ready soon; who waits at its `incoming` will hear.

        Raises:
            ServiceError: as `begin` does.
        """
        self.begin(name)
        return self._engines[self._catalogue.find(name).name]

    async def load(self, name: str) -> Engine:
        """Load a model unless it is loaded, and wait until it is ready.

        Raises:
            ServiceError: as `begin` does, or it failed.
        """
        if (engine := self.ready(name)) is not None:
            return engine
        # It may have to make room again before this goes on: ready once is what was asked.
        await asyncio.shield(self.begin(name))
        return self._engines[self._catalogue.find(name).name]

    def begin(self, name: str) -> asyncio.Task[None]:
        """Start loading a model unless it is loaded, or join the load under way.

        Raises:
            ModelNotFound: there is no such model.
            EngineFailed: no engine here can load it, or the service is stopping.
        """
        if self._closing:
            raise EngineFailed("The service is stopping.", status=503, retry_after=5)
        if (task := self._under_way(name)) is not None:
            return task
        model, adapter = self._choose(name)
        if (task := self._under_way(model.name)) is not None:
            return task
        engine = self._engines.get(model.name) or self._add(model, adapter)
        task = self._loads[model.name] = self._spawn(self._load(engine))
        return task

    async def unload(self, name: str) -> State:
        """Let a model finish what it has, then unload it; a load nobody waits for is called off.

        Raises:
            ModelNotFound: there is no such model.
        """
        engine = self._engines.get(name)
        if engine is None:
            self._catalogue.find(name)
            return State.STOPPED
        self._call_off(engine)
        if (load := self._under_way(name)) is not None:
            await asyncio.wait({load})
        if engine.state in OCCUPIES:
            await asyncio.shield(self._leave(engine))
            return State.STOPPED
        return engine.state

    async def close(self) -> None:
        """End every engine now, and take no more requests."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        stops = [engine.stop() for engine in self.engines]
        await asyncio.gather(*self._tasks, *stops, return_exceptions=True)

    def _under_way(self, name: str) -> asyncio.Task[None] | None:
        task = self._loads.get(name)
        return task if task is not None and not task.done() else None

    def _choose(self, name: str) -> tuple[Model, Adapter]:
        """Find a model as it is on disk now, and the engine for it."""
        self._catalogue.models()
        model = self._catalogue.find(name)
        if model.problem:
            raise EngineFailed(
                f"'{model.name}' cannot be loaded: {model.problem}",
                status=503,
                code="model_broken",
                retry=False,
            )
        return model, registry.choose(model, self._settings)

    def _add(self, model: Model, adapter: Adapter) -> Engine:
        """Make the engine of a model; it outlives its processes, so that crashes add up."""
        engine = Engine(model, adapter, self._settings, self._runtime, self._numbers, self._restart)
        self._engines[model.name] = engine
        return engine

    async def _load(self, engine: Engine) -> None:
        try:
            await asyncio.sleep(engine.back_off.left)
            async with self._room:
                if engine.state is not State.READY:
                    await self._make_room(engine)
                    # Its files may have changed since it was asked for, or since it last ran.
                    engine.serve(*self._choose(engine.model.name))
                    await engine.start()
        except ServiceError as error:
            engine.give_up(error)
            raise
        except asyncio.CancelledError:
            called_off = unloaded(engine.model.name)
            engine.give_up(called_off, State.STOPPED)
            raise called_off from None
        except Exception:
            engine.give_up(InternalError("The supervisor failed; errors.log has the details."))
            raise

    async def _make_room(self, newcomer: Engine) -> None:
        """Wait until a process of the newcomer may start; see `eviction` for who has to leave."""
        places = self._settings.max_concurrent_models
        while True:
            occupants = [
                self._occupant(engine)
                for engine in self.engines
                if engine.state in OCCUPIES and engine is not newcomer
            ]
            if len(occupants) < places and newcomer.model.name not in self._leaving:
                return
            for name in victims(occupants, places):
                log.info("making room", model=newcomer.model.name, leaving=name)
                # It may be about to be started again, after a crash, though nobody waits for it.
                self._call_off(self._engines[name])
                self._leave(self._engines[name])
            await asyncio.wait(self._leaving.values(), return_when=asyncio.FIRST_COMPLETED)

    def _occupant(self, engine: Engine) -> Occupant:
        name = engine.model.name
        return Occupant(name, engine.users, engine.last_used, name in self._leaving)

    def _call_off(self, engine: Engine) -> None:
        """Cancel the load of an engine, unless a request waits for it."""
        load = self._under_way(engine.model.name)
        if load is not None and not engine.expected:
            load.cancel()

    def _leave(self, engine: Engine) -> asyncio.Task[None]:
        name = engine.model.name
        if (task := self._leaving.get(name)) is None:
            task = self._leaving[name] = self._spawn(engine.drain())
            task.add_done_callback(lambda _: self._leaving.pop(name, None))
        return task

    def _restart(self, engine: Engine) -> None:
        async def restart() -> None:
            await asyncio.sleep(engine.back_off.left)
            # Somebody else may have taken its place meanwhile, or a request restarted it.
            if engine.state is State.CRASHED:
                try:
                    await asyncio.wait({self.begin(engine.model.name)})
                except ServiceError as error:
                    engine.give_up(error)

        self._spawn(restart())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, ServiceError):
            log.error("a task of the supervisor failed", exc_info=error)
