"""Wait for a condition that no event announces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil


def eventually(check: Callable[[], Any], timeout: float = 30.0, interval: float = 0.02) -> Any:
    """Call `check` until it returns something true, and return that.

    Raises:
        AssertionError: it did not within `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while not (found := check()):
        assert time.monotonic() < end, f"still {found!r} after {timeout} s"
        time.sleep(interval)
    return found


async def wait_until(check: Callable[[], Any], timeout: float = 30.0) -> Any:
    """`eventually` for tests that run in an event loop."""
    end = time.monotonic() + timeout
    while not (found := check()):
        assert time.monotonic() < end, f"still {found!r} after {timeout} s"
        await asyncio.sleep(0.005)
    return found


def wait_for_exit(processes: Iterable[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait until processes have ended; returns those that have not.

    Unlike `psutil.wait_procs` it does not wait until somebody has collected them, which takes the
    init process of some containers more than a second.
    """
    end = time.monotonic() + timeout
    left = [process for process in processes if runs(process)]
    while left and time.monotonic() < end:
        time.sleep(0.02)
        left = [process for process in left if runs(process)]
    return left


def runs(process: psutil.Process) -> bool:
    """Whether it does anything yet; one that nobody has collected does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
