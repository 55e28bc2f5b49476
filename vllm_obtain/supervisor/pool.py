"""All models that were asked for, and what is under way with each.

Callers ask for a model to be ready and never decide from its state themselves. Everything here
runs on the supervisor's one loop. How an engine comes up is in `loading`, who makes room in `room`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.engines import detect
from vllm_obtain.engines.choice import Choice
from vllm_obtain.errors import EngineFailed, InternalError, ServiceError
from vllm_obtain.messages import Done
from vllm_obtain.metrics import Numbers
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.choosing import Chooser
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.handovers import Handovers
from vllm_obtain.supervisor.idle import IdleUnloader
from vllm_obtain.supervisor.ledger import Ledger
from vllm_obtain.supervisor.load_failure import busy, superseded, unloaded
from vllm_obtain.supervisor.loading import Commit, Loader
from vllm_obtain.supervisor.meter import Meter
from vllm_obtain.supervisor.pressure import Pressure
from vllm_obtain.supervisor.quarantine import Quarantine, caused_itself
from vllm_obtain.supervisor.renewal import Renewal
from vllm_obtain.supervisor.room import Room
from vllm_obtain.supervisor.seat import Seat
from vllm_obtain.supervisor.states import OCCUPIES, State
from vllm_obtain.supervisor.tasks import Tasks
from vllm_obtain.supervisor.watchdog import Watchdog

Work = Callable[[], Coroutine[Any, Any, None]]

AUTO = "auto"
# Crashes within `back_off.WINDOW` after which another engine gets its turn.
MAX_CRASHES = 3


class Pool:
    """The engines of one service.

    Args:
        settings: the owner's settings.
        catalogue: the models on disk.
        runtime: folder for the engines' sockets.
        numbers: where everything is counted.
        meter: measures memory.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        runtime: Path,
        numbers: Numbers,
        meter: Meter,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._numbers = numbers
        self._seats: dict[str, Seat] = {}
        self._tasks = Tasks()
        # Not asyncio's own threads: whoever stops the service would wait for a probe that hangs.
        self._looking = ThreadPoolExecutor(1, "probes")
        self._closing = False
        self.handovers = Handovers(numbers)
        self.quarantine = Quarantine(settings.quarantine_seconds)
        self._chooser = Chooser(settings, catalogue)
        self._room = Room(settings.max_concurrent_models, self._seats, self._tasks.spawn)
        self.ledger = Ledger(settings, lambda: self.engines)
        self._loader = Loader(
            settings,
            self._room,
            self._chooser.choices,
            self._make,
            self.handovers,
            meter,
            self.ledger,
        )
        self._watchdog = Watchdog(settings.stall_seconds, lambda: self.engines)
        self.pressure = Pressure(self.ledger.limit, lambda: self.engines, meter.weigh)
        self._idle = IdleUnloader(settings.models, self._seats, self._room)

    def watch(self) -> None:
        """Begin to unload what is not used, and to end what does not work."""
        self._tasks.spawn(self._idle.run())
        self._tasks.spawn(self._watchdog.run())
        self._tasks.spawn(self.pressure.run())

    @property
    def engines(self) -> list[Engine]:
        """Every engine that was ever asked for, also those that do not run."""
        return [engine for seat in self._seats.values() for engine in seat.engines]

    @property
    def lines(self) -> list[tuple[Engine, int]]:
        """The engines, and how many wait until there is a process: the same ones for a model."""
        return [
            (engine, seat.lobby.queue if engine is seat.engine else 0)
            for seat in self._seats.values()
            for engine in seat.engines
        ]

    def engine_name(self, name: str) -> str:
        """The engine that serves a model, or would; raises as `begin` does."""
        return self._chooser.identity(name, self._seats.get(name))[0]

    def identity(self, name: str) -> bytes:
        """What an answer depends on beside the request: the engine and the model's files.

        Raises:
            ServiceError: as `begin` does.
        """
        engine, revision = self._chooser.identity(name, self._seats.get(name))
        return f"{engine}\0{revision}\0".encode()

    def state(self, name: str) -> State:
        """The state of the engine that a request for a model would meet."""
        seat = self._seats.get(name)
        return seat.state if seat is not None else State.STOPPED

    def uses(self, path: Path) -> bool:
        """Whether a model of these files is loaded, or on its way, under whatever name."""
        return any(
            engine.model.path == path
            for seat in self._seats.values()
            for engine in seat.engines
            if engine.state in OCCUPIES or seat.under_way is not None
        )

    def ready(self, name: str) -> Engine | None:
        """The engine of a model if it takes requests now; the common case."""
        seat = self._seats.get(name)
        engine = seat.engine if seat is not None else None
        return engine if engine is not None and engine.admits else None

    def summon(self, name: str) -> Engine:
        """See to it that a model is ready soon; who waits at its `incoming` will hear.

        Raises:
            ServiceError: as `begin` does.
        """
        seat = self._seats.get(name) or self._seat(self._chooser.find(name))
        if seat.ready is None:
            self.begin(seat.name)
        if seat.engine is None:
            seat.engine = self._make(seat, seat.first(self._chooser.choices(seat)))
        return seat.engine

    async def look_for(self, engine: str) -> None:
        """Find out about an engine that nobody has asked for yet; its probe may take a minute."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._looking, detect.warm, [engine], self._settings)

    async def load(self, name: str, engine: str | None = None) -> Engine:
        """Load a model, on an engine if one is named, and wait until it is ready.

        Args:
            name: the model.
            engine: see `begin`.

        Raises:
            ServiceError: as `begin` does, or it failed.
        """
        if engine is None and (found := self.ready(name)) is not None:
            return found
        # It may have to make room again before this goes on: ready once is what was asked.
        task = self.begin(name, engine)
        await asyncio.wait({task})
        if task.cancelled():  # before it had begun
            raise unloaded(name)
        task.result()
        loaded = self._seat(self._chooser.known(name)).engine
        assert loaded is not None  # noqa: S101 - it was ready a moment ago
        return loaded

    def begun(self, name: str, engine: str | None = None) -> Done:
        """Begin loading a model and say how far it is; arguments and errors as in `load`."""
        self.begin(name, engine)
        seat = self._seat(self._chooser.known(name))
        return seat.progress(engine is not None)

    def begin(self, name: str, engine: str | None = None) -> asyncio.Task[None]:
        """Start loading a model unless it is loaded, or join what is under way.

        Args:
            name: the model.
            engine: the one that shall serve it; one that serves goes on until this is ready.
                `auto` for the best one here, None for whichever has it.

        Raises:
            ModelNotFound: there is no such model.
            InvalidRequest: there is no such engine, or the model is on its way to another one.
            EngineFailed: no engine here can load it, or the service is stopping.
        """
        if self._closing:
            raise EngineFailed("The service is stopping.", status=503, retry_after=5)
        if engine is not None:
            return self._begin_named(self._chooser.find(name), engine)
        if (task := self._under_way(name)) is not None:
            return task
        model = self._chooser.find(name)
        if (task := self._under_way(model.name)) is not None:
            return task
        known = self._seats.get(model.name)
        choices = self._chooser.ranked(model, known.named if known else None)
        seat = self._seat(model)
        seat.heading = seat.first(choices).adapter.name
        return self._work(seat, lambda: self._loader.load(seat))

    async def renew(self, model: Model, commit: Commit, loading: Callable[[], None]) -> None:
        """Have a model get other files, which are not in their place yet.

        Args:
            model: the new files, under the model's name.
            commit: puts them in place: when nobody has the model loaded, else once an engine has
                loaded them, before requests go there.
            loading: called when an engine is about to.

        Raises:
            ServiceError: they do not load, or `commit` failed; what served serves as before.
        """

        def move(seat: Seat, choice: Choice, commit: Commit) -> asyncio.Task[None]:
            seat.heading = choice.adapter.name
            return self._work(seat, lambda: self._loader.switch(seat, choice, commit), moving=True)

        def seat() -> Seat | None:
            return self._seats.get(model.name)

        renewal = Renewal(seat, self._room, self.load, self._chooser.ranked, move)
        await renewal.run(model, commit, loading)

    async def unload(self, name: str) -> State:
        """Let a model finish what it has, then unload it; a load nobody waits for is called off.

        Raises:
            ModelNotFound: there is no such model.
        """
        seat = self._seats.get(name)
        if seat is None:
            self._chooser.known(name)
            return State.STOPPED
        self._room.call_off(seat)
        if seat.under_way is not None:
            await asyncio.wait({seat.under_way})
        seat.named = None
        if leaving := self._room.leave_all(seat):
            await asyncio.shield(asyncio.gather(*leaving))
            return State.STOPPED
        return seat.state

    async def close(self) -> None:
        """End every engine now, and take no more requests."""
        self._closing = True
        self._looking.shutdown(wait=False, cancel_futures=True)
        tasks = self._tasks.cancel()
        stops = [engine.stop() for engine in self.engines]
        await asyncio.gather(*tasks, *stops, return_exceptions=True)

    def _begin_named(self, model: Model, engine: str) -> asyncio.Task[None]:
        choice = self._chooser.ranked(model, None if engine == AUTO else engine)[0]
        wanted = choice.adapter.name
        seat = self._seat(model)
        before = seat.under_way
        if before is not None and seat.moving and seat.heading != wanted:
            raise busy(seat.name, seat.heading or "another engine")
        named, seat.named = seat.named, None if engine == AUTO else wanted
        if before is not None and seat.heading == wanted:
            return before
        seat.heading, seat.fall = wanted, None
        if engine == AUTO:
            seat.start_over()
        return self._work(seat, lambda: self._move(seat, choice, named, before), moving=True)

    async def _move(
        self, seat: Seat, choice: Choice, named: str | None, before: asyncio.Task[None] | None
    ) -> None:
        """Get a model to an engine that was asked for, from wherever it is."""
        wanted = choice.adapter.name
        try:
            if before is not None:
                await self._supersede(seat, before, wanted)
            if seat.ready is None:
                await self._loader.load(seat)
            elif seat.ready.adapter.name != wanted:
                await self._loader.switch(seat, choice)
        except BaseException:
            seat.named = named
            raise

    async def _supersede(self, seat: Seat, before: asyncio.Task[None], engine: str) -> None:
        """Call off the load of an engine that nobody named; who waits for it waits for this one."""
        seat.superseded_by = engine
        try:
            before.cancel()
            await asyncio.wait({before})
        finally:
            seat.superseded_by = None

    def _under_way(self, name: str) -> asyncio.Task[None] | None:
        seat = self._seats.get(name)
        return seat.under_way if seat is not None else None

    def _seat(self, model: Model) -> Seat:
        pinned = self._settings.models.of(model.name).pin
        return self._seats.setdefault(model.name, Seat(model.name, pinned))

    def _make(self, seat: Seat, choice: Choice) -> Engine:
        """Make an engine; it outlives its processes, so that crashes add up."""

        def crashed(engine: Engine, status: int, there: list[bytes]) -> None:
            if caused_itself(status):
                self.quarantine.crashed(seat.name, engine.adapter.name, status, there)
            if engine.state is State.CRASHED:
                self._restart(seat, engine)

        return Engine(choice, self._settings, self._runtime, self._numbers, seat.lobby, crashed)

    def _work(self, seat: Seat, work: Work, moving: bool = False) -> asyncio.Task[None]:
        def over(task: asyncio.Task[None]) -> None:
            if task.cancelled() and seat.superseded_by is None:  # before it had begun
                seat.give_up(unloaded(seat.name), State.STOPPED)

        seat.moving = moving
        seat.work = self._tasks.spawn(_told(seat, work))
        seat.work.add_done_callback(over)
        return seat.work

    def _restart(self, seat: Seat, engine: Engine) -> None:
        async def restart() -> None:
            crashes = engine.back_off.recent
            reason = f"It crashed {crashes} times within 5 minutes."
            if crashes < MAX_CRASHES or not self._loader.fail_over(seat, reason):
                await asyncio.sleep(engine.back_off.left)
            # Somebody else may have taken its place meanwhile, or a request restarted it.
            if seat.engine is engine and engine.state is State.CRASHED:
                await asyncio.wait({self.begin(seat.name)})

        async def told() -> None:
            try:
                await restart()
            except ServiceError as error:
                seat.give_up(error)

        self._tasks.spawn(told())


async def _told(seat: Seat, work: Work) -> None:
    """Do what is to be done for a seat; if it fails, those who wait hear why."""
    try:
        await work()
    except ServiceError as error:
        seat.give_up(error)
        raise
    except asyncio.CancelledError:
        if seat.superseded_by is not None:
            raise superseded(seat.name, seat.superseded_by) from None
        called_off = unloaded(seat.name)
        seat.give_up(called_off, State.STOPPED)
        raise called_off from None
    except Exception:
        seat.give_up(InternalError("The supervisor failed; errors.log has the details."))
        raise
