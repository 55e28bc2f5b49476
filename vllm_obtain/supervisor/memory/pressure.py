"""Memory pressure: monitors the actual memory use of engines, and acts before the machine swaps.

Near MEMORY_LIMIT, the engine that has grown most since its load is paused. If that does not help,
or the limit is exceeded, it is restarted. An engine that has not grown is left alone, since a
restart would not free memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from vllm_obtain.logs.setup import get_logger
from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.engine.states import EngineState

log = get_logger("vllm_obtain.models")

INTERVAL = 2.0
# Shares of the limit: where pausing starts, and the smallest growth that is worth a restart.
NEAR = 0.95
GROWTH = 0.02


class MemoryPressureMonitor:
    """Monitors the memory use of all engines.

    Args:
        limit: bytes that all engines may use together.
        engines: lists all engines.
        measure: measures processes, exactly or as an upper bound. Returns bytes by pid, None where
            it failed.
    """

    def __init__(
        self,
        limit: int,
        engines: Callable[[], Sequence[Engine]],
        measure: Callable[[Sequence[int], bool], Awaitable[dict[int, int | None]]],
    ) -> None:
        self._limit = limit
        self._engines = engines
        self._measure = measure
        # First measured bytes of each process, by pid.
        self._first: dict[int, int] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self.check()

    async def check(self) -> None:
        """Measure all engines once, and pause or restart one if needed."""
        running = {e.pid: e for e in self._engines() if e.pid and e.state in _LOADED}
        sizes = await self._sizes(list(running)) if running else {}
        self._first = {pid: min(size, self._first.get(pid, size)) for pid, size in sizes.items()}
        total = sum(sizes.values())
        if total <= self._limit * NEAR:
            for engine in running.values():
                engine.pause(False)
            return
        pid = max(sizes, key=lambda each: sizes[each] - self._first[each])
        engine, growth = running[pid], sizes[pid] - self._first[pid]
        if engine.pid != pid or growth < self._limit * GROWTH:
            return
        reason = (
            f"it has grown by {growth / 1e9:.2f} GB, and all engines use {total / 1e9:.2f} of "
            f"{self._limit / 1e9:.2f} GB (MEMORY_LIMIT)"
        )
        if total > self._limit or (engine.paused and not engine.users):
            await engine.end(f"memory: {reason}")
        elif not engine.paused:
            log.warning("engine paused", model=engine.model.name, reason=reason)
            engine.pause(True)

    async def _sizes(self, pids: list[int]) -> dict[int, int]:
        """Measure new processes exactly, and all of them if an upper bound is near the limit."""
        if all(pid in self._first for pid in pids):
            most = _known(await self._measure(pids, False))
            if sum(most.values()) <= self._limit * NEAR:
                return most
        return _known(await self._measure(pids, True))


def _known(sizes: dict[int, int | None]) -> dict[int, int]:
    return {pid: size for pid, size in sizes.items() if size is not None}


_LOADED = (EngineState.READY, EngineState.DRAINING)
