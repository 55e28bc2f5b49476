"""What goes on by itself in the supervisor, and ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from vllm_obtain.errors import ServiceError
from vllm_obtain.log import get_logger

log = get_logger("vllm_obtain.supervisor")


class Tasks:
    """Tasks that nobody has to wait for; a failure that nobody could have meant is logged."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have something done."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._reap)
        return task

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel all of them; they still have to be waited for."""
        cancelled = list(self._running)
        for task in cancelled:
            task.cancel()
        return cancelled

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, ServiceError):
            log.error("a task of the supervisor failed", exc_info=error)
