"""Runs a task on a model's files in a child process: download, update, verification, conversion."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from vllm_obtain.engines.adapter import LaunchSpec
from vllm_obtain.models.progress import Progress, ProgressCallback, read_line
from vllm_obtain.supervisor.engine.process import EngineProcess

# Seconds for the child process to close its files and delete partial results after SIGTERM.
STOP_GRACE = 5.0


async def run_child(
    name: str, pidfile: Path, command: Sequence[str], on_progress: ProgressCallback
) -> Progress:
    """Run a task and wait for its end. A cancellation ends the child process.

    Args:
        name: name for log lines.
        pidfile: file to which the guard writes the child's pid.
        command: a program that prints the lines of `models.progress`.
        on_progress: called with each progress line.

    Returns:
        The last progress.

    Raises:
        ServiceError: the task failed.
    """
    last: Progress | None = None

    def read(text: str) -> None:
        nonlocal last
        if (progress := read_line(text)) is not None:
            last = progress
            on_progress(progress)

    child = EngineProcess(name, pidfile, read)
    await child.start(LaunchSpec(command))
    try:
        status = await child.wait()
    finally:
        await asyncio.shield(child.stop(STOP_GRACE))
    if last is None or not last.is_over:
        reason = child.tail[-1] if child.tail else f"it exited with status {status}"
        last = Progress("failed", error=f"The process stopped: {reason}")
    if last.stage == "failed":
        raise last.failure()
    return last
