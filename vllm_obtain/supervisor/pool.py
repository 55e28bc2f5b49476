"""All engines: who is loaded, who has to go, and who gets a lease.

Callers ask for a model to be ready and never decide from its state themselves. Everything here
runs on the supervisor's one loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.engines import registry
from vllm_obtain.errors import (
    EngineFailed,
    Overloaded,
    RequestTimeout,
    ServiceError,
)
from vllm_obtain.log import get_logger
from vllm_obtain.messages import Acquire, Granted, Release
from vllm_obtain.metrics import Numbers
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.admission import Admission, EngineGone, Ticket
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.eviction import Occupant, victims
from vllm_obtain.supervisor.states import OCCUPIES, State

log = get_logger("vllm_obtain.models")

# The official SDKs give up on a Retry-After above this many seconds.
MAX_RETRY_AFTER = 120.0


class Lease:
    """One request's right to use an engine."""

    def __init__(self, pool: Pool, engine: Engine, admission: Admission, ticket: Ticket) -> None:
        self._pool = pool
        self._engine = engine
        self._admission = admission
        self._ticket = ticket
        self._over = False

    def granted(self) -> Granted:
        """Describe the lease to its holder."""
        engine = self._engine
        assert engine.launched is not None  # noqa: S101 - only a launched engine is leased
        return Granted(
            engine=engine.adapter.name,
            socket=str(engine.socket),
            model=engine.model.name,
            context=engine.launched.limits.context,
            tokens=self._ticket.granted,
            loaded_at=engine.loaded_at,
        )

    def settle(self, prompt_tokens: int) -> None:
        """Correct the reservation to the prompt's true length."""
        self._admission.settle(self._ticket, prompt_tokens)

    def extend(self, tokens: int) -> int:
        """Reserve more tokens; returns how many were granted."""
        return self._admission.extend(self._ticket, tokens)

    def release(self, release: Release) -> None:
        """End the lease and count what came of it; a second time does nothing."""
        if self._over:
            return
        self._over = True
        self._admission.leave(self._ticket)
        self._engine.touch()
        self._pool.finished(self._engine, release)


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
        self._ended: deque[float] = deque(maxlen=256)
        self.in_flight = 0

    @property
    def engines(self) -> list[Engine]:
        """Every engine that was ever asked for, also those that do not run."""
        return list(self._engines.values())

    def engine_name(self, model: str) -> str:
        """The engine that serves a model, or would."""
        engine = self._engines.get(model)
        if engine is not None:
            return engine.adapter.name
        return registry.choose(self._catalogue.find(model), self._settings).name

    def find(self, name: str) -> Model:
        """Look a model up; raises ModelNotFound."""
        return self._catalogue.find(name)

    def state(self, name: str) -> State:
        """The state of a model's engine."""
        engine = self._engines.get(name)
        return engine.state if engine is not None else State.STOPPED

    def try_acquire(self, request: Acquire) -> Lease | None:
        """Give a lease at once if the model is ready and has a place; the common case.

        Raises:
            Overloaded: MAX_CONCURRENT_REQUESTS are running or waiting.
        """
        self._check_capacity()
        engine = self._engines.get(request.model)
        if engine is None or engine.state is not State.READY or engine.admission is None:
            return None
        ticket = Ticket(request.prompt_tokens, request.max_tokens)
        if not engine.admission.try_enter(ticket):
            return None
        self.in_flight += 1
        engine.touch()
        return Lease(self, engine, engine.admission, ticket)

    async def acquire(self, request: Acquire) -> Lease:
        """Make the model ready, wait for a place on it, and give a lease.

        Raises:
            ServiceError: no such model, no engine for it, it failed to load, the timeout
                passed, or there are too many requests already.
        """
        self._check_capacity()
        self.in_flight += 1
        try:
            async with asyncio.timeout(request.timeout):
                return await self._enter(request)
        except TimeoutError:
            self.in_flight -= 1
            raise RequestTimeout(
                f"The request waited for '{request.model}' until REQUEST_TIMEOUT. "
                "Try again when the service is less busy, or raise REQUEST_TIMEOUT.",
                retry=False,
            ) from None
        except BaseException:
            self.in_flight -= 1
            raise

    async def ensure_ready(self, name: str) -> Engine:
        """Load a model unless it is loaded, and wait until it is ready.

        Raises:
            ServiceError: as in `acquire`.
        """
        while True:
            engine = self._engines.get(name)
            if engine is not None and engine.state is State.READY:
                return engine
            await asyncio.shield(self.begin(name))

    def begin(self, name: str) -> asyncio.Task[None]:
        """Start loading a model, or join the load under way.

        Raises:
            ModelNotFound: there is no such model.
            EngineFailed: no engine here can load it.
        """
        if (task := self._loads.get(name)) is not None:
            return task
        engine = self._engine(self._catalogue.find(name))
        task = self._spawn(self._load(engine))
        self._loads[name] = task
        task.add_done_callback(lambda _: self._loads.pop(name, None))
        return task

    async def unload(self, name: str) -> State:
        """Let a model finish what it has, then unload it.

        Raises:
            ModelNotFound: there is no such model.
        """
        if (task := self._loads.get(name)) is not None:
            await asyncio.wait({task})
        engine = self._engines.get(name)
        if engine is None:
            self._catalogue.find(name)
            return State.STOPPED
        if engine.state in OCCUPIES:
            await asyncio.shield(self._leave(engine))
        return engine.state

    async def close(self) -> None:
        """End every engine now."""
        for task in (*self._tasks, *self._loads.values(), *self._leaving.values()):
            task.cancel()
        await asyncio.gather(*(engine.stop() for engine in self.engines), return_exceptions=True)

    def finished(self, engine: Engine, release: Release) -> None:
        """Count a lease that ended."""
        self.in_flight -= 1
        self._ended.append(time.monotonic())
        self._numbers.released(engine.model.name, engine.adapter.name, release)

    def retry_after(self) -> float:
        """Seconds until a place is likely free, from how fast requests ended in the last minute."""
        now = time.monotonic()
        recent = [moment for moment in self._ended if now - moment < 60]
        if len(recent) < 2:
            return 5.0
        seconds_per_request = (now - recent[0]) / len(recent)
        return min(MAX_RETRY_AFTER, math.ceil(max(1.0, seconds_per_request)))

    def _check_capacity(self) -> None:
        limit = self._settings.max_concurrent_requests
        if self.in_flight >= limit:
            raise Overloaded(
                f"{self.in_flight} requests are running or waiting, and "
                f"MAX_CONCURRENT_REQUESTS={limit}. Try again in a moment, or raise it.",
                retry_after=self.retry_after(),
            )

    async def _enter(self, request: Acquire) -> Lease:
        while True:
            engine = await self.ensure_ready(request.model)
            admission = engine.admission
            if admission is None:
                continue
            ticket = Ticket(request.prompt_tokens, request.max_tokens)
            try:
                await admission.enter(ticket)
            except EngineGone:
                continue
            finally:
                engine.touch()
            return Lease(self, engine, admission, ticket)

    def _engine(self, model: Model) -> Engine:
        """The engine object of a model; it outlives its processes, so that crashes add up."""
        engine = self._engines.get(model.name)
        if engine is not None and engine.model.revision == model.revision:
            return engine
        if model.problem:
            raise EngineFailed(
                f"'{model.name}' cannot be loaded: {model.problem}",
                status=503,
                code="model_broken",
                retry=False,
            )
        made = Engine(
            model,
            registry.choose(model, self._settings),
            self._settings,
            self._runtime,
            self._numbers,
            self._restart,
        )
        if engine is None or engine.state not in OCCUPIES:
            self._engines[model.name] = made
        return self._engines[model.name]

    async def _load(self, engine: Engine) -> None:
        await asyncio.sleep(engine.back_off)
        async with self._room:
            await self._make_room(engine)
            await engine.start()

    async def _make_room(self, newcomer: Engine) -> None:
        if (leaving := self._leaving.get(newcomer.model.name)) is not None:
            await asyncio.wait({leaving})
        occupants = [
            Occupant(engine.model.name, engine.users, engine.last_used)
            for engine in self.engines
            if engine.state in OCCUPIES and engine is not newcomer
        ]
        for name in victims(occupants, self._settings.max_concurrent_models):
            log.info("making room", model=newcomer.model.name, leaving=name)
            await asyncio.wait({self._leave(self._engines[name])})

    def _leave(self, engine: Engine) -> asyncio.Task[None]:
        name = engine.model.name
        if (task := self._leaving.get(name)) is None:
            task = self._leaving[name] = self._spawn(engine.drain())
            task.add_done_callback(lambda _: self._leaving.pop(name, None))
        return task

    def _restart(self, engine: Engine) -> None:
        async def restart() -> None:
            await asyncio.sleep(engine.back_off)
            # Somebody else may have taken its place meanwhile, or a request restarted it.
            if engine.state is State.CRASHED:
                await asyncio.wait({self.begin(engine.model.name)})

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
