"""Looks at the memory that engines really take, and acts before the machine has to swap.

Near MEMORY_LIMIT the engine that has grown most since it was loaded gets no new requests; when
that does not help, or the limit is passed, it is ended and starts again small. One that has not
grown is left alone: it would be as large again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from vllm_obtain.log import get_logger
from vllm_obtain.supervisor.engine import Engine
from vllm_obtain.supervisor.states import State

log = get_logger("vllm_obtain.models")

INTERVAL = 2.0
# Of the limit: from here on nothing new is begun, and the least growth that is worth a restart.
NEAR = 0.95
GROWTH = 0.02


class Pressure:
    """Weighs the engines.

    Args:
        limit: bytes that all may take.
        engines: lists all engines.
        weigh: measures processes, exactly or with what they take at most: bytes by pid, None where
            that failed.
    """

    def __init__(
        self,
        limit: int,
        engines: Callable[[], Sequence[Engine]],
        weigh: Callable[[Sequence[int], bool], Awaitable[dict[int, int | None]]],
    ) -> None:
        self._limit = limit
        self._engines = engines
        self._weigh = weigh
        # What each process took when it was first seen, by its pid.
        self._first: dict[int, int] = {}

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.look()

    async def look(self) -> None:
        """Weigh all engines once, and act."""
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
            f"it has grown by {growth / 1e9:.2f} GB, and all engines take {total / 1e9:.2f} of "
            f"{self._limit / 1e9:.2f} GB (MEMORY_LIMIT)"
        )
        if total > self._limit or (engine.paused and not engine.users):
            await engine.end(f"memory: {reason}")
        elif not engine.paused:
            log.warning("no new requests for an engine", model=engine.model.name, reason=reason)
            engine.pause(True)

    async def _sizes(self, pids: list[int]) -> dict[int, int]:
        """Measure exactly what is new, and everything where it could be too much; see `Meter`."""
        if all(pid in self._first for pid in pids):
            most = _known(await self._weigh(pids, False))
            if sum(most.values()) <= self._limit * NEAR:
                return most
        return _known(await self._weigh(pids, True))


def _known(sizes: dict[int, int | None]) -> dict[int, int]:
    return {pid: size for pid, size in sizes.items() if size is not None}


_LOADED = (State.READY, State.DRAINING)
