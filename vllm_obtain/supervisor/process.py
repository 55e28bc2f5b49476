"""One engine process, from its start to its end, with the guard that is its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from vllm_obtain.engines.base import Launch
from vllm_obtain.errors import EngineFailed
from vllm_obtain.log import get_logger
from vllm_obtain.supervisor import guard
from vllm_obtain.supervisor.output import discreet

log = get_logger("vllm_obtain.engine")

TAIL_LINES = 40
LINE_CHARACTERS = 1000
# Of one line; of a longer one, only its last part is kept.
MAX_LINE = 1 << 20
# Seconds between asking an engine to end and killing it, and between that and killing its guard.
STOP_GRACE = 2.0
GUARD_GRACE = 2.0
# Seconds for the last lines to arrive; whoever left the engine's group may hold the pipe open.
OUTPUT_GRACE = 0.5
# Engines and libraries that tell their makers who uses them do not, whichever of them it is.
_QUIET = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OTEL_SDK_DISABLED": "true",
}


class EngineProcess:
    """A running command; made by `start`, never restarted: a new start is a new object.

    Args:
        name: for log lines, such as `llama_cpp/smollm2-135m`.
        pidfile: where the guard notes the engine's pid, for a sweep after a crash of ours.
        heard: given each line of output.
    """

    def __init__(
        self, name: str, pidfile: Path, heard: Callable[[str], object] | None = None
    ) -> None:
        self._name = name
        self._pidfile = pidfile
        self._heard = heard
        self._pid: int | None = None
        self._guard: asyncio.subprocess.Process | None = None
        self._orders: int | None = None
        self._end: asyncio.Task[int] | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        # Whether it has requests from now on, whose text it may print.
        self.is_private = False

    @property
    def pid(self) -> int | None:
        """The engine's own pid, None until the guard has started it."""
        if self._pid is None:
            with contextlib.suppress(OSError, ValueError):
                self._pid = int(self._pidfile.read_text())
        return self._pid

    @property
    def tail(self) -> list[str]:
        """The engine's last lines of output; all of them once `wait` has returned."""
        return list(self._tail)

    @property
    def has_ended(self) -> bool:
        """Whether `wait` would return at once."""
        return self._end is not None and self._end.done()

    async def start(self, launch: Launch) -> None:
        """Start the command under a guard; returns before the engine is ready.

        Raises:
            EngineFailed: the guard itself could not be started.
        """
        starting = asyncio.create_task(self._start_guard(launch))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # asyncio would kill the guard, and on macOS nobody would end the engine.
            await asyncio.wait({starting})
            raise

    async def wait(self) -> int:
        """Wait for the end.

        Returns:
            The engine's exit status; 128 + n for one that died of signal n.
        """
        assert self._end is not None  # noqa: S101 - started
        return await asyncio.shield(self._end)

    async def stop(self, grace: float = STOP_GRACE) -> None:
        """Ask the engine to end, then kill it and everything it started. Safe to call twice.

        Args:
            grace: seconds between the two.
        """
        if self._guard is None or self._end is None:
            return
        if self._orders is not None:
            with contextlib.suppress(OSError):  # it is ending by itself
                os.write(self._orders, b"T")
        await asyncio.wait({self._end}, timeout=grace)
        self._hang_up()
        await asyncio.wait({self._end}, timeout=GUARD_GRACE)
        if not self._end.done():  # a guard that was stopped (SIGSTOP) reads nothing
            with contextlib.suppress(ProcessLookupError):
                self._guard.kill()
        await self.wait()

    async def _start_guard(self, launch: Launch) -> None:
        # Pipes of our own: with asyncio's, its `wait` would last until whoever inherited one has
        # closed it, and a child that an engine left behind may hold the output for ever.
        (orders, self._orders), (output, theirs) = os.pipe(), os.pipe()
        command = [sys.executable, "-I", "-S", guard.__file__, str(self._pidfile), *launch.command]
        try:
            self._guard = await asyncio.create_subprocess_exec(
                *command,
                stdin=orders,
                stdout=theirs,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **_QUIET, **launch.env},
            )
        except OSError as error:
            self._hang_up()
            os.close(output)
            raise EngineFailed(
                f"The engine process could not be started: {error}.",
                status=503,
                code="model_load_failed",
            ) from error
        finally:
            os.close(orders)
            os.close(theirs)
        self._end = asyncio.create_task(self._finish(self._guard, output))

    async def _finish(self, process: asyncio.subprocess.Process, output: int) -> int:
        stream = asyncio.StreamReader(limit=MAX_LINE)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(output, "rb", 0)
        )
        reading = asyncio.create_task(self._read(stream))
        status = await process.wait()
        if status < 0:
            self._kill_group()
        await asyncio.wait({reading}, timeout=OUTPUT_GRACE)
        reading.cancel()
        pipe.close()
        self._hang_up()
        self._pidfile.unlink(missing_ok=True)
        return status

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while line := await _next_line(stream):
            text = line.decode(errors="replace").rstrip()[:LINE_CHARACTERS]
            if text and self._heard is not None:
                self._heard(text)
            if shown := discreet(text) if self.is_private else text:
                self._tail.append(shown)
                log.debug("engine output", engine=self._name, line=shown)

    def _hang_up(self) -> None:
        """Close the pipe that the guard reads: it kills the engine at its end."""
        orders, self._orders = self._orders, None
        if orders is not None:
            os.close(orders)

    def _kill_group(self) -> None:
        # The guard was killed. On Linux the kernel ends the engine, but not what it started; on
        # macOS nobody ends either.
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


async def _next_line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # a line longer than the buffer: what was read of it is dropped
        return b"(a line too long to keep)\n"
