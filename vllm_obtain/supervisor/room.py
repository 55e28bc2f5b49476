"""Places for models: who has to leave so that another one can be loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from vllm_obtain.log import get_logger
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.eviction import fits, held_for_good, victims
from vllm_obtain.supervisor.load_failure import no_place
from vllm_obtain.supervisor.seat import Seat
from vllm_obtain.supervisor.states import OCCUPIES

log = get_logger("vllm_obtain.models")


class Room:
    """The places of a pool.

    Args:
        places: MAX_CONCURRENT_MODELS.
        seats: the models by name; kept by the pool.
        spawn: runs what goes on by itself, until the pool is closed.
    """

    def __init__(
        self,
        places: int,
        seats: dict[str, Seat],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        # Loads go one after another: two at once would each count on the memory the other takes.
        self.lock = asyncio.Lock()
        self._places = places
        self._seats = seats
        self._spawn = spawn
        self._leaving: dict[Engine, asyncio.Task[None]] = {}

    def pinned(self, newcomer: Seat) -> int:
        """Bytes of models that will not make room for a newcomer."""
        others = (seat for seat in self._seats.values() if seat is not newcomer and seat.pinned)
        return sum(seat.reserved for seat in others)

    async def make(self, newcomer: Seat, needed: int = 0, limit: int = 0) -> None:
        """Wait until a process for a model may start; see `eviction` for who has to leave.

        Args:
            newcomer: the model; engines of its own that were replaced do not count.
            needed: bytes that it will take; 0 when they are not counted.
            limit: bytes that all models may take.

        Raises:
            EngineFailed: pinned models hold all places.
        """
        while True:
            others = [s for s in self._seats.values() if s is not newcomer and s.occupies]
            occupants = [seat.occupant() for seat in others]
            has_room = fits(occupants, self._places, needed, limit)
            if has_room and newcomer.engine not in self._leaving:
                return
            if pinned := held_for_good(occupants, self._places):
                raise no_place(newcomer.name, pinned, self._places)
            for name in victims(occupants, self._places, needed, limit if needed else 0):
                log.info("making room", model=newcomer.name, leaving=name)
                # It may be about to be started again, after a crash, though nobody waits for it.
                self.call_off(self._seats[name])
                self.leave_all(self._seats[name])
            await asyncio.wait(self._leaving.values(), return_when=asyncio.FIRST_COMPLETED)

    def call_off(self, seat: Seat) -> None:
        """Cancel the load or switch of a model, unless a request waits for it."""
        if seat.under_way is not None and not seat.lobby.queue:
            seat.under_way.cancel()

    def leave(self, engine: Engine) -> asyncio.Task[None]:
        """Have an engine finish what it has, then end."""
        if (task := self._leaving.get(engine)) is None:
            task = self._leaving[engine] = self._spawn(engine.drain())
            task.add_done_callback(lambda _: self._leaving.pop(engine, None))
        return task

    def leave_all(self, seat: Seat) -> list[asyncio.Task[None]]:
        """Have all engines of a model finish what they have."""
        return [self.leave(engine) for engine in seat.engines if engine.state in OCCUPIES]
