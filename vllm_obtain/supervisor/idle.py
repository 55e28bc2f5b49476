"""Unloads models that nobody has used for as long as their owner said (`ttl`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from vllm_obtain.log import get_logger
from vllm_obtain.model_settings import ModelTable
from vllm_obtain.supervisor.room import Room
from vllm_obtain.supervisor.seat import Seat
from vllm_obtain.supervisor.states import State

log = get_logger("vllm_obtain.models")


class IdleUnloader:
    """Looks at the models when the first of them may be due, and no more often.

    Args:
        table: what is set for single models.
        seats: the models by name; kept by the pool.
        room: lets engines leave.
        clock: seconds of the clock that engines note their last use by.
    """

    def __init__(
        self,
        table: ModelTable,
        seats: Mapping[str, Seat],
        room: Room,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._seats = seats
        self._room = room
        self._clock = clock

    async def run(self) -> None:
        """Go on until cancelled; returns at once when no model has a `ttl`."""
        patience = [each.ttl for each in self._table.tables.values() if each.ttl]
        while patience:
            left = [self.unload_or_wait(seat) for seat in list(self._seats.values())]
            # One that is loaded meanwhile cannot be due before the shortest has passed.
            await asyncio.sleep(min([*left, *patience]))

    def unload_or_wait(self, seat: Seat) -> float:
        """Have a model leave if it is due.

        Returns:
            Seconds until it may be, infinite when that is up to others.
        """
        ttl = self._table.of(seat.name).ttl
        engine = seat.engine
        if not ttl or engine is None or engine.state is not State.READY:
            return float("inf")
        if engine.users or seat.lobby.queue or seat.under_way is not None:
            return ttl
        left = engine.last_used + ttl - self._clock()
        if left > 0:
            return left
        log.info("unloading what nobody uses", model=seat.name, ttl=ttl)
        self._room.leave_all(seat)
        return float("inf")
