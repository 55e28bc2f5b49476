"""Loads models, and switches them to other engines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.selection import EngineChoice
from vllm_obtain.errors import ServiceError
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models import Model
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.engine.load_errors import (
    NoPlace,
    switch_and_restart_failed,
    switch_failed,
)
from vllm_obtain.supervisor.engine.states import EngineState
from vllm_obtain.supervisor.memory import estimate as memory_estimate
from vllm_obtain.supervisor.memory.budget import MemoryBudget
from vllm_obtain.supervisor.memory.sampler import ResourceSampler
from vllm_obtain.supervisor.models.eviction import CapacityManager
from vllm_obtain.supervisor.models.model_entry import ModelEntry
from vllm_obtain.supervisor.models.switch_history import Cause, SwitchHistory

log = get_logger("vllm_obtain.models")

Choose = Callable[[ModelEntry], list[EngineChoice]]
Make = Callable[[ModelEntry, EngineChoice], Engine]
# Installs new files, and returns a function that maps a model to its new paths.
Commit = Callable[[], Callable[[Model], Model]]


class Loader:
    """Loads and switches models for a pool.

    Args:
        settings: the service's settings.
        capacity: capacity for models, and their eviction.
        choose: lists the engines for a model as it is on disk now, the best first.
        make: creates the engine of a choice.
        switches: records engine switches.
        sampler: measures memory.
        budget: memory budget of all engines.
    """

    def __init__(
        self,
        settings: Settings,
        capacity: CapacityManager,
        choose: Choose,
        make: Make,
        switches: SwitchHistory,
        sampler: ResourceSampler,
        budget: MemoryBudget,
    ) -> None:
        self._settings = settings
        self._capacity = capacity
        self._choose = choose
        self._make = make
        self._switches = switches
        self._sampler = sampler
        self._budget = budget

    async def load(self, entry: ModelEntry) -> None:
        """Load a model on the best engine that starts.

        Raises:
            ServiceError: no engine starts, or none supports the model.
        """
        while True:
            choice = self._next_choice(entry)
            try:
                await self._load_on(entry, choice)
                break
            except _ChoiceChanged:
                continue
            except ServiceError as error:
                if isinstance(error, NoPlace) or not self.fail_over(entry, error.message):
                    # The next request tries the best engine again.
                    entry.reset_failures()
                    raise
        if (failover := entry.failover) is not None:
            entry.failover = None
            seconds = time.monotonic() - failover.at
            to = choice.adapter.name
            self._switches.record_switch(
                entry.name, failover.engine, to, "failover", seconds, failover.reason
            )

    def fail_over(self, entry: ModelEntry, reason: str) -> bool:
        """Fail over to the next engine that can serve the model.

        Args:
            entry: the model.
            reason: why the engine failed.

        Returns:
            False if there is none, the engine was requested by name, or ENGINE_FAILOVER is off.
        """
        engine = entry.engine
        if engine is None or entry.named or not self._settings.engine_failover:
            return False
        name = engine.adapter.name
        others = [each.adapter.name for each in self._choose(entry)]
        remaining = [each for each in others if each != name and not entry.has_failed(each)]
        if remaining:
            entry.mark_failed(name, reason)
            log.error(
                "failover started", model=entry.name, engine=name, to=remaining[0], reason=reason
            )
        return bool(remaining)

    async def switch(
        self, entry: ModelEntry, choice: EngineChoice, commit: Commit | None = None
    ) -> None:
        """Switch a model to another engine, beside the old one if memory allows, else after it.

        Args:
            entry: the model.
            choice: the new engine and the files it loads.
            commit: installs new files of the model after they have loaded; None for a switch.

        Raises:
            ServiceError: the new engine did not start. The old one serves the model.
        """
        started_at = time.monotonic()
        old, new = entry.engine, self._make(entry, choice)
        assert old is not None  # noqa: S101 - a model without an engine is loaded, not switched
        entry.successor = new
        names = entry.name, old.adapter.name, new.adapter.name
        cause: Cause = "update" if commit else "switch"
        try:
            await self._prepare(old, new)
            async with self._capacity.lock:
                await self._change(entry, old, new, commit)
        except ServiceError as error:
            seconds = time.monotonic() - started_at
            self._switches.record_failure(*names, cause, seconds, error.message)
            raise
        finally:
            entry.successor = None
        seconds = time.monotonic() - started_at
        reason = "The model has new files." if commit else "Requested by name."
        self._switches.record_switch(*names, cause, seconds, reason)

    async def _prepare(self, old: Engine, new: Engine) -> None:
        try:
            await new.prepare()
        except ServiceError as error:
            raise switch_failed(error, old.adapter.name) from error

    async def _change(
        self, entry: ModelEntry, old: Engine, new: Engine, commit: Commit | None
    ) -> None:
        if old.state is EngineState.READY and not await self._fits_beside(new):
            log.info("old engine drained first", model=entry.name, engine=new.adapter.name)
            # From here on requests queue in the waiting room until an engine is ready.
            await asyncio.shield(self._capacity.drain(old))
        try:
            await self._make_room(entry, new)
            await new.start()
            if commit is not None:
                # No await from here until requests go to the new engine.
                new.relocate(commit())
        except ServiceError as error:
            if new.state is EngineState.READY:
                await new.stop()
            await self._restart_old(entry, old, error)
            raise switch_failed(error, old.adapter.name) from error
        entry.engine = new
        if old.state is EngineState.READY:
            old.retire()
            entry.retired.append(old)
            self._capacity.drain(old).add_done_callback(lambda _: entry.retired.remove(old))

    async def _restart_old(self, entry: ModelEntry, old: Engine, error: ServiceError) -> None:
        """Restart the old engine if it was drained or crashed. Requests are still queued."""
        if old.state is EngineState.READY:
            return
        log.warning("previous engine restarted", model=entry.name, reason=error.message)
        try:
            await old.start()
        except ServiceError as restart_error:
            raise switch_and_restart_failed(error, restart_error) from restart_error

    async def _load_on(self, entry: ModelEntry, choice: EngineChoice) -> None:
        engine = self._engine_for(entry, choice)
        await asyncio.sleep(engine.backoff.remaining)
        await engine.prepare()
        async with self._capacity.lock:
            if engine.state is EngineState.READY:
                return
            await self._make_room(entry, engine)
            # The files may have changed meanwhile, and need another engine.
            if _key(self._next_choice(entry)) != _key(choice):
                raise _ChoiceChanged
            await engine.start()

    def _next_choice(self, entry: ModelEntry) -> EngineChoice:
        choice = entry.first(self._choose(entry))
        entry.target_engine = choice.adapter.name
        return choice

    def _engine_for(self, entry: ModelEntry, choice: EngineChoice) -> Engine:
        """The entry's engine. It is kept for the same adapter, so that its crashes add up."""
        engine = entry.engine
        if engine is None or engine.adapter.name != choice.adapter.name:
            engine = entry.engine = self._make(entry, choice)
        elif engine.state is not EngineState.READY:
            engine.set_choice(choice)
        return engine

    async def _make_room(self, entry: ModelEntry, engine: Engine) -> None:
        """Reserve memory for an engine, and wait until the evicted models are unloaded.

        Loads run one after another, so memory is not reserved twice.
        """
        estimate = self._budget.estimate(engine, self._capacity.pinned(entry))
        engine.reserved = 0 if estimate.on_gpu else estimate.needed
        engine.sizing = estimate.sizing
        await self._capacity.make_room(entry, engine.reserved, self._budget.limit)

    async def _fits_beside(self, engine: Engine) -> bool:
        try:
            return await self._estimate(engine)
        except Exception:
            # Reserving memory fails with the same error and reports it; the old engine serves.
            return True

    async def _estimate(self, engine: Engine) -> bool:
        estimate = self._budget.estimate(engine)
        model_settings = self._settings.models.of(engine.files.name)
        values = (await self._sampler.read()).system
        free, total = memory_estimate.free_and_total(values, estimate.on_gpu, model_settings.gpus)
        if not estimate.on_gpu and self._budget.reserved + estimate.needed > self._budget.limit:
            return False
        return memory_estimate.fits(estimate.needed, free, total)


class _ChoiceChanged(Exception):
    """The choice of the engine has changed before its start."""


def _key(choice: EngineChoice) -> tuple[str, str, str | None]:
    return choice.adapter.name, choice.model.revision, choice.conversion
