"""Replaces the files of a model, without downtime if it is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from vllm_obtain.engines.selection import EngineChoice
from vllm_obtain.errors import ServiceError
from vllm_obtain.models import Model
from vllm_obtain.supervisor.engine.load_errors import switch_failed, unloaded
from vllm_obtain.supervisor.engine.states import OCCUPIES, EngineState
from vllm_obtain.supervisor.models.eviction import CapacityManager
from vllm_obtain.supervisor.models.loader import Commit
from vllm_obtain.supervisor.models.model_entry import ModelEntry

# Attempts, if the model is unloaded or evicted during the reload.
ATTEMPTS = 3


class HotReload:
    """Replaces the files of a model that may be loaded; see `Pool.reload`.

    Args:
        find_entry: returns the model's entry, None if it was never loaded.
        capacity: drains engines.
        load: restarts a crashed model.
        ranked: lists the engines for the new files.
        switch: starts a switch to a choice with a commit function.
    """

    def __init__(
        self,
        find_entry: Callable[[], ModelEntry | None],
        capacity: CapacityManager,
        load: Callable[[str], Awaitable[Any]],
        ranked: Callable[[Model, str | None], list[EngineChoice]],
        switch: Callable[[ModelEntry, EngineChoice, Commit], asyncio.Task[None]],
    ) -> None:
        self._find_entry = find_entry
        self._capacity = capacity
        self._load = load
        self._ranked = ranked
        self._switch = switch

    async def run(self, model: Model, commit: Commit, on_loading: Callable[[], None]) -> None:
        """Replace the files; arguments and errors as in `Pool.reload`."""
        for attempt in range(1, ATTEMPTS + 1):
            entry = await self._wait_until_settled()
            if entry is None:
                # No await since the check, so no load can start in between.
                commit()
                return
            try:
                on_loading()
                await self._switch_to(entry, model, commit)
                return
            except ServiceError as error:
                if error.code != unloaded(entry.name).code or attempt == ATTEMPTS:
                    raise

    async def _wait_until_settled(self) -> ModelEntry | None:
        """Wait until the model is ready or not loaded; None in the latter case."""
        while (entry := self._find_entry()) is not None:
            if entry.running_work is not None:
                await asyncio.wait({entry.running_work})
            elif entry.ready is not None:
                return entry
            elif entry.state is EngineState.CRASHED:
                # A model that does not restart has no users, and the new files may fix it.
                try:
                    await self._load(entry.name)
                except ServiceError:
                    if entry.state is EngineState.CRASHED:  # the restart was not tried
                        raise
            elif any(each.state in OCCUPIES for each in entry.engines):
                await asyncio.wait(self._capacity.drain_all(entry))
            else:
                return None
        return None

    async def _switch_to(self, entry: ModelEntry, model: Model, commit: Commit) -> None:
        serving = entry.ready
        assert serving is not None  # noqa: S101 - `_settled`
        try:
            choices = self._ranked(model, entry.named)
        except ServiceError as error:
            raise switch_failed(error, serving.adapter.name) from error
        same = [each for each in choices if each.adapter.name == serving.adapter.name]
        task = self._switch(entry, (same or choices)[0], commit)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        if task.cancelled():  # before it started
            raise unloaded(entry.name)
        task.result()
