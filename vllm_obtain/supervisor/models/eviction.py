"""Eviction of models to make room for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from vllm_obtain.logs.setup import get_logger
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.engine.load_errors import no_place
from vllm_obtain.supervisor.engine.states import OCCUPIES
from vllm_obtain.supervisor.models.eviction_policy import all_pinned, fits, victims
from vllm_obtain.supervisor.models.model_entry import ModelEntry

log = get_logger("vllm_obtain.models")


class CapacityManager:
    """The capacity of a pool: MAX_CONCURRENT_MODELS and the memory budget.

    Args:
        max_models: MAX_CONCURRENT_MODELS.
        entries: the models by name, owned by the pool.
        spawn: starts a background task that ends with the pool.
    """

    def __init__(
        self,
        max_models: int,
        entries: dict[str, ModelEntry],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        # Loads run one after another: two at once would count on the same memory.
        self.lock = asyncio.Lock()
        self._max_models = max_models
        self._entries = entries
        self._spawn = spawn
        self._draining: dict[Engine, asyncio.Task[None]] = {}

    def pinned(self, newcomer: ModelEntry) -> int:
        """Bytes of pinned models other than `newcomer`."""
        others = (
            entry for entry in self._entries.values() if entry is not newcomer and entry.pinned
        )
        return sum(entry.reserved for entry in others)

    async def make_room(self, newcomer: ModelEntry, needed: int = 0, limit: int = 0) -> None:
        """Evict models until another one can start; see `eviction_policy` for the order.

        Args:
            newcomer: the model to load. Its retired engines do not count.
            needed: bytes that it needs; 0 if they are not counted.
            limit: bytes that all models may use together.

        Raises:
            EngineFailed: pinned models occupy MAX_CONCURRENT_MODELS.
        """
        while True:
            others = [s for s in self._entries.values() if s is not newcomer and s.occupies]
            candidates = [entry.candidate() for entry in others]
            has_room = fits(candidates, self._max_models, needed, limit)
            if has_room and newcomer.engine not in self._draining:
                return
            if pinned := all_pinned(candidates, self._max_models):
                raise no_place(newcomer.name, pinned, self._max_models)
            for name in victims(candidates, self._max_models, needed, limit if needed else 0):
                log.info("eviction started", model=name, newcomer=newcomer.name)
                # It may be about to restart after a crash, although no request waits for it.
                self.cancel_load(self._entries[name])
                self.drain_all(self._entries[name])
            await asyncio.wait(self._draining.values(), return_when=asyncio.FIRST_COMPLETED)

    def cancel_load(self, entry: ModelEntry) -> None:
        """Cancel the load or switch of a model, unless a request waits for it."""
        if entry.running_work is not None and not entry.waiting_room.queue:
            entry.running_work.cancel()

    def drain(self, engine: Engine) -> asyncio.Task[None]:
        """Start draining an engine: it finishes its requests, then stops."""
        if (task := self._draining.get(engine)) is None:
            task = self._draining[engine] = self._spawn(engine.drain())
            task.add_done_callback(lambda _: self._draining.pop(engine, None))
        return task

    def drain_all(self, entry: ModelEntry) -> list[asyncio.Task[None]]:
        return [self.drain(engine) for engine in entry.engines if engine.state in OCCUPIES]
