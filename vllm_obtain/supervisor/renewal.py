"""A model gets new files: when nobody has it loaded at once, else when they have loaded beside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from vllm_obtain.catalogue import Model
from vllm_obtain.engines.choice import Choice
from vllm_obtain.errors import ServiceError
from vllm_obtain.supervisor.load_failure import stays, unloaded
from vllm_obtain.supervisor.loading import Commit
from vllm_obtain.supervisor.room import Room
from vllm_obtain.supervisor.seat import Seat
from vllm_obtain.supervisor.states import OCCUPIES, State

# Unloaded in the middle of it, whether by somebody or to make room, it is looked at anew.
TRIES = 3


class Renewal:
    """How the files of a model that may be loaded are replaced; see `Pool.renew`.

    Args:
        seat: the model's seat, None while there is none.
        room: the places.
        load: loads a model that crashed again.
        ranked: lists the engines for a model's new files.
        move: begins to move a seat to a choice, with what puts the files in place.
    """

    def __init__(
        self,
        seat: Callable[[], Seat | None],
        room: Room,
        load: Callable[[str], Awaitable[Any]],
        ranked: Callable[[Model, str | None], list[Choice]],
        move: Callable[[Seat, Choice, Commit], asyncio.Task[None]],
    ) -> None:
        self._seat = seat
        self._room = room
        self._load = load
        self._ranked = ranked
        self._move = move

    async def run(self, model: Model, commit: Commit, loading: Callable[[], None]) -> None:
        """Replace the files; arguments and errors as in `Pool.renew`."""
        for tries in range(1, TRIES + 1):
            seat = await self._settled()
            if seat is None:
                # Nothing has been awaited since: no load can come between.
                commit()
                return
            try:
                loading()
                await self._beside(seat, model, commit)
                return
            except ServiceError as error:
                if error.code != unloaded(seat.name).code or tries == TRIES:
                    raise

    async def _settled(self) -> Seat | None:
        """Wait until a model is ready, or until nobody has it loaded: then there is no seat."""
        while (seat := self._seat()) is not None:
            if seat.under_way is not None:
                await asyncio.wait({seat.under_way})
            elif seat.ready is not None:
                return seat
            elif seat.state is State.CRASHED:
                # What does not come up again is used by nobody, and the new files may mend that.
                try:
                    await self._load(seat.name)
                except ServiceError:
                    if seat.state is State.CRASHED:  # it was not even tried
                        raise
            elif any(each.state in OCCUPIES for each in seat.engines):
                await asyncio.wait(self._room.leave_all(seat))
            else:
                return None
        return None

    async def _beside(self, seat: Seat, model: Model, commit: Commit) -> None:
        serving = seat.ready
        assert serving is not None  # noqa: S101 - `_settled`
        try:
            choices = self._ranked(model, seat.named)
        except ServiceError as error:
            raise stays(error, serving.adapter.name) from error
        same = [each for each in choices if each.adapter.name == serving.adapter.name]
        task = self._move(seat, (same or choices)[0], commit)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        if task.cancelled():  # before it had begun
            raise unloaded(seat.name)
        task.result()
