"""What the fetching room does for the supervisor: by a child process that tells how far it is."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from vllm_obtain.engines.base import Launch
from vllm_obtain.errors import Overloaded
from vllm_obtain.fetching.progress import Progress, read_line
from vllm_obtain.messages import Limits, Look, Looked
from vllm_obtain.supervisor.process import EngineProcess

COMMAND = [sys.executable, "-m", "vllm_obtain.fetching"]
# Seconds for a child to close what it has open.
STOP_GRACE = 5.0
# Looks at once: each reads all files of models, or waits for hubs.
MOST_LOOKS = 2


async def run(
    name: str, pidfile: Path, arguments: Sequence[str], heard: Callable[[Progress], None]
) -> Progress:
    """Have something done, and wait for its end; ended with whoever waits.

    Args:
        name: for log lines.
        pidfile: where the guard notes the child's pid.
        arguments: of `python -m vllm_obtain.fetching`.
        heard: told all it says.

    Returns:
        The last it said.

    Raises:
        ServiceError: it failed.
    """
    last: list[Progress] = []

    def read(text: str) -> None:
        if (said := read_line(text)) is not None:
            last[:] = [said]
            heard(said)

    child = EngineProcess(name, pidfile, read)
    await child.start(Launch([*COMMAND, *arguments], Limits(0, 0, 0)))
    try:
        status = await child.wait()
    finally:
        await asyncio.shield(child.stop(STOP_GRACE))
    said = last[-1] if last else None
    if said is None or not said.is_over:
        why = child.tail[-1] if child.tail else f"its process ended with status {status}"
        said = Progress("failed", error=f"The pull broke off: {why}")
    if said.stage == "failed":
        raise said.failure()
    return said


class Looks:
    """Comparisons of models with their sources, or with their manifests.

    Args:
        folder: for the pid files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = 0

    async def look(self, asked: Look) -> Looked:
        """Compare; ended when the one who asked is gone.

        Raises:
            ServiceError: a name is not known, or two such questions are being answered already.
        """
        if self._running >= MOST_LOOKS:
            raise Overloaded(
                f"{MOST_LOOKS} such questions are being answered already. Ask again later.",
                retry_after=30,
                retry=False,
            )
        self._running += 1
        try:
            pidfile = self._folder / f"elook-{secrets.token_hex(6)}.pid"
            arguments = ["--task", asked.task, "--", *asked.names]
            said = await run(asked.task, pidfile, arguments, lambda _: None)
        finally:
            self._running -= 1
        return Looked(msgspec.json.encode(said.report))
