"""Unloads models that were not used for their `ttl`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from vllm_obtain.config.model_settings import ModelTable
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.supervisor.engine.states import EngineState
from vllm_obtain.supervisor.models.eviction import CapacityManager
from vllm_obtain.supervisor.models.model_entry import ModelEntry

log = get_logger("vllm_obtain.models")


class IdleUnloader:
    """Unloads idle models. It wakes up when the first one may be due.

    Args:
        table: settings of single models.
        entries: the models by name, owned by the pool.
        capacity: drains engines.
        clock: monotonic seconds, as in `Engine.last_used`.
    """

    def __init__(
        self,
        table: ModelTable,
        entries: Mapping[str, ModelEntry],
        capacity: CapacityManager,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._entries = entries
        self._capacity = capacity
        self._clock = clock

    async def run(self) -> None:
        """Run until cancelled. Returns at once if no model has a `ttl`."""
        ttls = [each.ttl for each in self._table.tables.values() if each.ttl]
        while ttls:
            remaining = [self.unload_or_wait(entry) for entry in list(self._entries.values())]
            # A model that is loaded meanwhile is not due before the shortest `ttl` has passed.
            await asyncio.sleep(min([*remaining, *ttls]))

    def unload_or_wait(self, entry: ModelEntry) -> float:
        """Unload a model if it is due.

        Returns:
            Seconds until it may be due; infinite if it is not loaded or has no `ttl`.
        """
        ttl = self._table.of(entry.name).ttl
        engine = entry.engine
        if not ttl or engine is None or engine.state is not EngineState.READY:
            return float("inf")
        if engine.users or entry.waiting_room.queue or entry.running_work is not None:
            return ttl
        remaining = engine.last_used + ttl - self._clock()
        if remaining > 0:
            return remaining
        log.info("idle model unloaded", model=entry.name, ttl=ttl)
        self._capacity.drain_all(entry)
        return float("inf")
