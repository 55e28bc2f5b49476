"""Background tasks of the supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from vllm_obtain.errors import ServiceError
from vllm_obtain.logs.setup import get_logger

log = get_logger("vllm_obtain.supervisor")


class BackgroundTasks:
    """Tasks that run until they end or are cancelled. Unexpected exceptions are logged."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._reap)
        return task

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel all tasks and return them, so that the caller can wait for them."""
        cancelled = list(self._running)
        for task in cancelled:
            task.cancel()
        return cancelled

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, ServiceError):
            log.error("background task failed", exc_info=error)
