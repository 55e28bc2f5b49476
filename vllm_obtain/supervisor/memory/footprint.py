"""Footprint watchdog: ends an engine that uses much more memory than was reserved for it.

A request can make an engine grow by a gigabyte per second, for example with a grammar that is
expensive to compile. Without a limit the kernel's OOM killer would end it, or another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from vllm_obtain.supervisor.engine.engine import Engine
from vllm_obtain.supervisor.engine.states import EngineState

# Seconds between two checks of an engine that has requests.
INTERVAL = 0.25
# An engine may use this much more than its reservation, or than right after its load: a share, and
# bytes for buffers that do not depend on the model's size.
FACTOR = 1.2
SLACK = 512 * 2**20
# Bytes in place of SLACK for an engine on a GPU with its own memory. Nothing is reserved for it on
# the host, where vLLM caches images, for example.
SLACK_GPU = 8 * 2**30


class FootprintWatchdog:
    """Monitors the memory of each engine that has requests.

    Args:
        engines: lists all engines.
        measure: measures processes, exactly or as an upper bound. Returns bytes by pid, None where
            it failed.
    """

    def __init__(
        self,
        engines: Callable[[], Sequence[Engine]],
        measure: Callable[[Sequence[int], bool], Awaitable[dict[int, int | None]]],
    ) -> None:
        self._engines = engines
        self._measure = measure
        # Bytes of each process when it was measured first, by pid.
        self._first: dict[int, int] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self.check()

    async def check(self) -> None:
        """Measure the engines that have requests or are new, and end those above their limit."""
        loaded = {e.pid: e for e in self._engines() if e.pid and e.state in _LOADED}
        self._first = {pid: size for pid, size in self._first.items() if pid in loaded}
        await self._measure_new([pid for pid in loaded if pid not in self._first])
        working = [pid for pid, engine in loaded.items() if engine.users and pid in self._first]
        if not working:
            return
        sizes = await self._measure(working, False)
        suspicious = [pid for pid in working if self._excess(loaded[pid], pid, sizes.get(pid))]
        if not suspicious:
            return
        sizes = await self._measure(suspicious, True)
        for pid in suspicious:
            engine, excess = loaded[pid], self._excess(loaded[pid], pid, sizes.get(pid))
            if excess and engine.pid == pid:
                await engine.end(f"memory: {excess}")

    async def _measure_new(self, pids: list[int]) -> None:
        if pids:
            sizes = await self._measure(pids, True)
            self._first |= {pid: size for pid, size in sizes.items() if size is not None}

    def _excess(self, engine: Engine, pid: int, size: int | None) -> str:
        """Describe what an engine uses above its limit; empty if it does not."""
        expected = max(engine.reserved, self._first[pid])
        limit = FACTOR * expected + (SLACK if engine.reserved else SLACK_GPU)
        if size is None or size <= limit:
            return ""
        return f"it uses {size / 1e9:.2f} GB, and its limit is {limit / 1e9:.2f} GB"


_LOADED = (EngineState.READY, EngineState.DRAINING)
