"""One engine process, from its start to its end, with the guard that is its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from pathlib import Path

from vllm_obtain.engines.base import Launch
from vllm_obtain.errors import EngineFailed
from vllm_obtain.log import get_logger
from vllm_obtain.supervisor import guard

log = get_logger("vllm_obtain.engine")

TAIL_LINES = 40
STOP_GRACE = 3.0


class EngineProcess:
    """A running command; made by `start`, never restarted: a new start is a new object.

    Args:
        name: for log lines, such as `llama_cpp/smollm2-135m`.
        pidfile: where the guard notes the engine's pid, for a sweep after a crash of ours.
    """

    def __init__(self, name: str, pidfile: Path) -> None:
        self._name = name
        self._pidfile = pidfile
        self._guard: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.pid: int | None = None

    @property
    def tail(self) -> list[str]:
        """The engine's last lines of output."""
        return list(self._tail)

    async def start(self, launch: Launch) -> None:
        """Start the command under a guard; returns before the engine is ready.

        Raises:
            EngineFailed: the guard itself could not be started.
        """
        try:
            self._guard = await asyncio.create_subprocess_exec(
                sys.executable,
                "-S",
                "-E",
                guard.__file__,
                str(self._pidfile),
                *launch.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **launch.env},
                limit=1 << 20,
            )
        except OSError as error:
            raise EngineFailed(f"The engine process could not be started: {error}.") from error
        self._reader = asyncio.create_task(self._read())

    async def wait(self) -> int:
        """Wait for the end.

        Returns:
            The engine's exit status; 128 + n for one that died of signal n.
        """
        assert self._guard is not None and self._reader is not None  # noqa: S101 - started
        status = await self._guard.wait()
        with contextlib.suppress(TimeoutError):
            # Whoever inherited the pipe could keep it open; the last lines are there by now.
            await asyncio.wait_for(asyncio.shield(self._reader), 0.5)
        if status < 0 and self.pid is not None:
            self._kill_group()
        self._pidfile.unlink(missing_ok=True)
        return status

    async def stop(self, grace: float = STOP_GRACE) -> None:
        """Ask the engine to end, then kill it and everything it started.

        Args:
            grace: seconds between the two.
        """
        if self._guard is None or self._guard.stdin is None:
            return
        with contextlib.suppress(ConnectionError, TimeoutError):
            self._guard.stdin.write(b"T")
            await self._guard.stdin.drain()
            await asyncio.wait_for(asyncio.shield(self.wait()), grace)
        self._guard.stdin.close()
        await self.wait()

    def note_pid(self) -> None:
        """Read the engine's pid, which the guard has written by the time the engine answers."""
        with contextlib.suppress(OSError, ValueError):
            self.pid = int(self._pidfile.read_text())

    async def _read(self) -> None:
        assert self._guard is not None and self._guard.stdout is not None  # noqa: S101 - started
        while line := await self._next_line(self._guard.stdout):
            text = line.decode(errors="replace").rstrip()
            if self.pid is None:
                self.note_pid()
            if text:
                self._tail.append(text)
                log.debug("engine output", engine=self._name, line=text)

    async def _next_line(self, stream: asyncio.StreamReader) -> bytes:
        try:
            return await stream.readline()
        except ValueError:  # a line longer than the buffer: what is left of it is dropped
            return b"(a line too long to keep)\n"

    def _kill_group(self) -> None:
        # The guard was killed: the kernel ends the engine on Linux, nobody does on macOS.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid or 0, signal.SIGKILL)
