"""Bringing a model up, and moving it from one engine to another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from vllm_obtain.catalogue import Model
from vllm_obtain.engines.choice import Choice
from vllm_obtain.errors import ServiceError
from vllm_obtain.log import get_logger
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor import fitting
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.handovers import Cause, Handovers
from vllm_obtain.supervisor.ledger import Ledger
from vllm_obtain.supervisor.load_failure import NoPlace, neither, stays
from vllm_obtain.supervisor.meter import Meter
from vllm_obtain.supervisor.room import Room
from vllm_obtain.supervisor.seat import Seat
from vllm_obtain.supervisor.states import State

log = get_logger("vllm_obtain.models")

Choose = Callable[[Seat], list[Choice]]
Make = Callable[[Seat, Choice], Engine]
# Puts new files in place, and says where what lay beside the old ones is then.
Commit = Callable[[], Callable[[Model], Model]]


class Loader:
    """How engines of a pool come up; see `Pool` for when.

    Args:
        settings: the owner's settings.
        room: the places.
        choose: lists the engines for a model as it is on disk now, the best first.
        make: makes the engine of a choice.
        handovers: where changes of engine are noted.
        meter: measures memory.
        ledger: what engines may take of it.
    """

    def __init__(
        self,
        settings: Settings,
        room: Room,
        choose: Choose,
        make: Make,
        handovers: Handovers,
        meter: Meter,
        ledger: Ledger,
    ) -> None:
        self._settings = settings
        self._room = room
        self._choose = choose
        self._make = make
        self._handovers = handovers
        self._meter = meter
        self._ledger = ledger

    async def load(self, seat: Seat) -> None:
        """Bring a model up on the best engine that starts.

        Raises:
            ServiceError: none did, or there is none.
        """
        while True:
            choice = self._next(seat)
            try:
                await self._load_on(seat, choice)
                break
            except _Changed:
                continue
            except ServiceError as error:
                if isinstance(error, NoPlace) or not self.fail_over(seat, error.message):
                    # The next request begins with the best one again.
                    seat.start_over()
                    raise
        if (fall := seat.fall) is not None:
            seat.fall = None
            seconds = time.monotonic() - fall.at
            to = choice.adapter.name
            self._handovers.done(seat.name, fall.engine, to, "failover", seconds, fall.reason)

    def fail_over(self, seat: Seat, reason: str) -> bool:
        """Have the seat's engine give way to the next one that can serve the model.

        Args:
            seat: the model.
            reason: what went wrong with the engine.

        Returns:
            False when there is none, its engine was named, or ENGINE_FAILOVER is off.
        """
        engine = seat.engine
        if engine is None or seat.named or not self._settings.engine_failover:
            return False
        name = engine.adapter.name
        others = [each.adapter.name for each in self._choose(seat)]
        left = [each for each in others if each != name and not seat.gave_way(each)]
        if left:
            seat.pass_over(name, reason)
            log.error("engine gives way", model=seat.name, engine=name, to=left[0], reason=reason)
        return bool(left)

    async def switch(self, seat: Seat, choice: Choice, commit: Commit | None = None) -> None:
        """Move a model to another engine: beside the old one if memory allows, else after it.

        Args:
            seat: the model.
            choice: the new engine, and what it serves.
            commit: for other files of the model, puts them in place once they have loaded.

        Raises:
            ServiceError: the new one did not start; the old one serves.
        """
        began = time.monotonic()
        old, new = seat.engine, self._make(seat, choice)
        assert old is not None  # noqa: S101 - a model without an engine is loaded, not switched
        seat.successor = new
        names = seat.name, old.adapter.name, new.adapter.name
        cause: Cause = "update" if commit else "switch"
        try:
            await self._prepare(old, new)
            async with self._room.lock:
                await self._change(seat, old, new, commit)
        except ServiceError as error:
            self._handovers.failed(*names, cause, time.monotonic() - began, error.message)
            raise
        finally:
            seat.successor = None
        seconds = time.monotonic() - began
        reason = "The model has new files." if commit else "Asked for by name."
        self._handovers.done(*names, cause, seconds, reason)

    async def _prepare(self, old: Engine, new: Engine) -> None:
        try:
            await new.prepare()
        except ServiceError as error:
            raise stays(error, old.adapter.name) from error

    async def _change(self, seat: Seat, old: Engine, new: Engine, commit: Commit | None) -> None:
        if old.state is State.READY and not await self._fits_beside(new):
            log.info("too little memory for both", model=seat.name, engine=new.adapter.name)
            # From here on requests wait in the lobby, for whichever engine is ready next.
            await asyncio.shield(self._room.leave(old))
        await self._make_room(seat, new)
        try:
            await new.start()
            if commit is not None:
                # From here until requests go to the new one, nothing else happens.
                new.relocate(commit())
        except ServiceError as error:
            if new.state is State.READY:
                await new.stop()
            await self._revive(seat, old, error)
            raise stays(error, old.adapter.name) from error
        seat.engine = new
        if old.state is State.READY:
            old.retire()
            seat.retired.append(old)
            self._room.leave(old).add_done_callback(lambda _: seat.retired.remove(old))

    async def _revive(self, seat: Seat, old: Engine, error: ServiceError) -> None:
        """Start the old engine again, if it had to leave or crashed; requests are still held."""
        if old.state is State.READY:
            return
        log.warning("starting the engine before again", model=seat.name, reason=error.message)
        try:
            await old.start()
        except ServiceError as second:
            raise neither(error, second) from second

    async def _load_on(self, seat: Seat, choice: Choice) -> None:
        engine = self._seated(seat, choice)
        await asyncio.sleep(engine.back_off.left)
        await engine.prepare()
        async with self._room.lock:
            if engine.state is State.READY:
                return
            await self._make_room(seat, engine)
            # Its files may have changed while it waited: they may need another engine.
            if _key(self._next(seat)) != _key(choice):
                raise _Changed
            await engine.start()

    def _next(self, seat: Seat) -> Choice:
        choice = seat.first(self._choose(seat))
        seat.heading = choice.adapter.name
        return choice

    def _seated(self, seat: Seat, choice: Choice) -> Engine:
        """The seat's engine, made anew when another one is to serve: crashes of one add up."""
        engine = seat.engine
        if engine is None or engine.adapter.name != choice.adapter.name:
            engine = seat.engine = self._make(seat, choice)
        elif engine.state is not State.READY:
            engine.serve(choice)
        return engine

    async def _make_room(self, seat: Seat, engine: Engine) -> None:
        """Reserve what an engine will take, and wait until those who make room for it are gone.

        Loads come here one after another, so that what is reserved cannot be given twice.
        """
        estimate = self._ledger.estimate(engine, self._room.pinned(seat))
        engine.reserved = 0 if estimate.on_gpu else estimate.needed
        engine.memory = estimate.machine
        await self._room.make(seat, engine.reserved, self._ledger.limit)

    async def _fits_beside(self, engine: Engine) -> bool:
        try:
            return await self._estimate(engine)
        except Exception:
            # Its start will meet the same problem, and explain it, while the old one serves.
            return True

    async def _estimate(self, engine: Engine) -> bool:
        estimate = self._ledger.estimate(engine)
        owner = self._settings.models.of(engine.files.name)
        values = (await self._meter.read()).system
        free, total = fitting.free_and_total(values, estimate.on_gpu, owner.gpus)
        if not estimate.on_gpu and self._ledger.reserved + estimate.needed > self._ledger.limit:
            return False
        return fitting.fits(estimate.needed, free, total)


class _Changed(Exception):
    """Another engine has to serve than the one that was about to be started."""


def _key(choice: Choice) -> tuple[str, str, str | None]:
    return choice.adapter.name, choice.model.revision, choice.conversion
