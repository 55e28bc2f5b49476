"""A model in the pool: its engine, a successor during a switch, and retired engines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_obtain.control.messages import LoadStatus
from vllm_obtain.engines.selection import EngineChoice
from vllm_obtain.errors import ServiceError
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.engine.states import OCCUPIES, EngineState
from vllm_obtain.supervisor.models.eviction_policy import EvictionCandidate
from vllm_obtain.supervisor.scheduling.waiting_room import WaitingRoom


@dataclass(frozen=True)
class FailoverRecord:
    """An engine that failed and was replaced by another one.

    Args:
        engine: its name.
        reason: why it failed.
        at: monotonic seconds.
    """

    engine: str
    reason: str
    at: float


class ModelEntry:
    """The state of one model. It is kept as long as the service runs.

    Args:
        name: the model's name.
        pinned: whether the model is never evicted.
    """

    def __init__(self, name: str, pinned: bool = False) -> None:
        self.name = name
        self.pinned = pinned
        self.waiting_room = WaitingRoom()
        # The engine of new requests. Replaced only by a ready one, or while none is ready.
        self.engine: Engine | None = None
        self.successor: Engine | None = None
        self.retired: list[Engine] = []
        # The engine that was requested by name. It has no failover.
        self.named: str | None = None
        # The load or switch in progress, and its target engine.
        self.work: asyncio.Task[None] | None = None
        self.target_engine: str | None = None
        # Whether the target engine was requested by name.
        self.is_switch = False
        self.superseded_by: str | None = None
        self.failover: FailoverRecord | None = None
        self._failed: dict[str, str] = {}
        self._revision = ""

    @property
    def engines(self) -> list[Engine]:
        """All engines of the model, the serving one first."""
        return [each for each in (self.engine, self.successor, *self.retired) if each is not None]

    @property
    def ready(self) -> Engine | None:
        """The engine if it is ready, else None."""
        engine = self.engine
        return engine if engine is not None and engine.state is EngineState.READY else None

    @property
    def state(self) -> EngineState:
        """The state of the engine that a request would use."""
        return self.engine.state if self.engine is not None else EngineState.STOPPED

    @property
    def running_work(self) -> asyncio.Task[None] | None:
        """The load or switch in progress, None without one."""
        return self.work if self.work is not None and not self.work.done() else None

    @property
    def occupies(self) -> bool:
        """Whether the model counts for MAX_CONCURRENT_MODELS."""
        return any(engine.state in OCCUPIES for engine in self.engines)

    @property
    def reserved(self) -> int:
        """Bytes that are reserved for its engines."""
        return sum(engine.reserved for engine in self.engines if engine.state in OCCUPIES)

    def progress(self, to_named: bool) -> LoadStatus:
        """Return the status of the load.

        Args:
            to_named: whether to report the load on the target engine; else any ready engine counts.
        """
        serving, next_engine = self.ready, self.successor or self.engine
        target = self.target_engine or (next_engine.adapter.name if next_engine else "")
        if serving is not None and (not to_named or serving.adapter.name == target):
            return LoadStatus(serving.adapter.name, EngineState.READY)
        if next_engine is None or next_engine.adapter.name != target:
            return LoadStatus(target, EngineState.STARTING)
        converting = next_engine.state is EngineState.CONVERTING
        return LoadStatus(
            target,
            EngineState.CONVERTING if converting else EngineState.STARTING,
            next_engine.stage,
        )

    def candidate(self) -> EvictionCandidate:
        """Describe the model for the eviction policy."""
        engines = self.engines
        return EvictionCandidate(
            self.name,
            sum(engine.users for engine in engines),
            max((engine.last_used for engine in engines), default=0.0),
            leaving=all(
                engine.state is EngineState.DRAINING
                for engine in engines
                if engine.state in OCCUPIES
            ),
            pinned=self.pinned,
            bytes=self.reserved,
        )

    def note_revision(self, revision: str) -> None:
        """Reset failed engines if the model's files have changed."""
        if revision != self._revision:
            self._revision = revision
            self._failed.clear()

    def first(self, choices: Sequence[EngineChoice]) -> EngineChoice:
        """Return the best choice whose engine has not failed; the best one if all have failed."""
        remaining = [each for each in choices if not self.has_failed(each.adapter.name)]
        return (remaining or choices)[0]

    def has_failed(self, engine: str) -> bool:
        """Whether an engine has failed for this model."""
        return engine in self._failed

    def mark_failed(self, engine: str, reason: str) -> None:
        """Mark an engine as failed, so that the next one is used.

        Args:
            engine: name of the engine.
            reason: why it failed.
        """
        self._failed[engine] = reason
        if self.failover is None:
            self.failover = FailoverRecord(engine, reason, time.monotonic())

    def reset_failures(self) -> None:
        """Allow all engines again."""
        self._failed.clear()
        self.failover = None

    def give_up(self, reason: ServiceError, state: EngineState = EngineState.FAILED) -> None:
        """Reject the waiting requests, since no engine starts; arguments as in `Engine.give_up`."""
        if self.engine is not None:
            self.engine.give_up(reason, state)
        if self.ready is None:
            self.waiting_room.dismiss(reason)
