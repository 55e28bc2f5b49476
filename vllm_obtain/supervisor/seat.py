"""A model's seat in the pool: the engine that serves it, one that takes over, those that leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_obtain.engines.choice import Choice
from vllm_obtain.errors import ServiceError
from vllm_obtain.messages import Done
from vllm_obtain.supervisor.eviction import Occupant
from vllm_obtain.supervisor.lobby import Lobby
from vllm_obtain.supervisor.states import OCCUPIES, State

if TYPE_CHECKING:
    from vllm_obtain.supervisor.engine import Engine


@dataclass(frozen=True)
class Fall:
    """An engine that gave way.

    Args:
        engine: its name.
        reason: why.
        at: monotonic seconds.
    """

    engine: str
    reason: str
    at: float


class Seat:
    """Everything that is kept of one model, as long as the service runs.

    Args:
        name: the model's name.
        pinned: whether it never makes room for another one.
    """

    def __init__(self, name: str, pinned: bool = False) -> None:
        self.name = name
        self.pinned = pinned
        self.lobby = Lobby()
        # The one that new requests go to; replaced only by one that is ready, or while none is.
        self.engine: Engine | None = None
        self.successor: Engine | None = None
        self.retired: list[Engine] = []
        # The engine that a caller asked for by name; it never gives way to another one.
        self.named: str | None = None
        # The load or the switch under way, and the engine that it is for.
        self.work: asyncio.Task[None] | None = None
        self.heading: str | None = None
        # Whether that engine was asked for by name.
        self.moving = False
        self.superseded_by: str | None = None
        self.fall: Fall | None = None
        self._passed: dict[str, str] = {}
        self._revision = ""

    @property
    def engines(self) -> list[Engine]:
        """All its engines, the one that serves first."""
        return [each for each in (self.engine, self.successor, *self.retired) if each is not None]

    @property
    def ready(self) -> Engine | None:
        """The engine that admits requests now."""
        engine = self.engine
        return engine if engine is not None and engine.state is State.READY else None

    @property
    def state(self) -> State:
        """What a request would meet."""
        return self.engine.state if self.engine is not None else State.STOPPED

    @property
    def under_way(self) -> asyncio.Task[None] | None:
        """The load or the switch that is not over, if there is one."""
        return self.work if self.work is not None and not self.work.done() else None

    @property
    def occupies(self) -> bool:
        """Whether it holds one of the places that MAX_CONCURRENT_MODELS counts."""
        return any(engine.state in OCCUPIES for engine in self.engines)

    @property
    def reserved(self) -> int:
        """Bytes that are held for its engines."""
        return sum(engine.reserved for engine in self.engines if engine.state in OCCUPIES)

    def progress(self, to_named: bool) -> Done:
        """Say how far it is.

        Args:
            to_named: on the way to the engine it is heading for; else to any that serves.
        """
        serving, coming = self.ready, self.successor or self.engine
        heading = self.heading or (coming.adapter.name if coming else "")
        if serving is not None and (not to_named or serving.adapter.name == heading):
            return Done(serving.adapter.name, State.READY)
        if coming is None or coming.adapter.name != heading:
            return Done(heading, State.STARTING)
        converting = coming.state is State.CONVERTING
        return Done(heading, State.CONVERTING if converting else State.STARTING, coming.stage)

    def occupant(self) -> Occupant:
        """Describe it to whoever needs a place."""
        engines = self.engines
        return Occupant(
            self.name,
            sum(engine.users for engine in engines),
            max((engine.last_used for engine in engines), default=0.0),
            leaving=all(
                engine.state is State.DRAINING for engine in engines if engine.state in OCCUPIES
            ),
            pinned=self.pinned,
            bytes=self.reserved,
        )

    def look_at(self, revision: str) -> None:
        """Begin anew with the first engine when the model's files have changed."""
        if revision != self._revision:
            self._revision = revision
            self._passed.clear()

    def first(self, choices: Sequence[Choice]) -> Choice:
        """The best one that has not given way; the best one if all have."""
        left = [each for each in choices if not self.gave_way(each.adapter.name)]
        return (left or choices)[0]

    def gave_way(self, engine: str) -> bool:
        """Whether an engine has had its chance."""
        return engine in self._passed

    def pass_over(self, engine: str, reason: str) -> None:
        """Have an engine give way to the next one.

        Args:
            engine: its name.
            reason: what went wrong.
        """
        self._passed[engine] = reason
        if self.fall is None:
            self.fall = Fall(engine, reason, time.monotonic())

    def start_over(self) -> None:
        """Give every engine a chance again."""
        self._passed.clear()
        self.fall = None

    def give_up(self, reason: ServiceError, state: State = State.FAILED) -> None:
        """Tell those who wait that no engine will come; arguments as in `Engine.give_up`."""
        if self.engine is not None:
            self.engine.give_up(reason, state)
        if self.ready is None:
            self.lobby.dismiss(reason)
