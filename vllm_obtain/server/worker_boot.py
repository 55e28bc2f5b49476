"""Retries the start of gunicorn workers, so that one that cannot start does not end the service.

gunicorn ends the whole service when a worker fails to load the application. That is right while
the service starts. Later, the other workers still serve requests, and the cause may pass: a full
disk, a supervisor that is being restarted.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from vllm_obtain.logs.setup import get_logger

log = get_logger("vllm_obtain.worker")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
_STEP = 0.1

# Shared by the master and its workers: whether a worker has started since the service started.
_has_started = mmap.mmap(-1, 1)


def worker_started() -> None:
    """Record that a worker has loaded the application."""
    _has_started[0] = 1


def retry_boot(worker: Any) -> None:
    """Make a worker try again with increasing pauses when it cannot load the application.

    Args:
        worker: gunicorn's worker, after the fork.
    """
    worker.load_wsgi = _with_retry(worker, worker.load_wsgi)


def _with_retry(worker: Any, load: Callable[[], None]) -> Callable[[], None]:
    def load_with_retry() -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                return load()
            except Exception as error:
                if not _has_started[0]:
                    raise
                log.error(
                    "worker start failed",
                    reason=str(error),
                    error=type(error).__name__,
                    retry=pause,
                )
            _wait(worker, pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    return load_with_retry


def _wait(worker: Any, seconds: float) -> None:
    """Wait, and end the process if the worker is to stop or its master is gone."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not worker.alive or os.getppid() != worker.ppid:
            sys.exit(0)
        worker.notify()
        time.sleep(_STEP)
