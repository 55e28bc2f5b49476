"""One engine process, and the guard that is its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import psutil

from vllm_obtain.engines.adapter import LaunchSpec
from vllm_obtain.errors import EngineFailed
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.supervisor.engine import guard
from vllm_obtain.supervisor.engine.log_redaction import redact

log = get_logger("vllm_obtain.engine")

TAIL_LINES = 40
# Characters of a line in the tail and the log.
LINE_CHARACTERS = 1000
# Maximum bytes of a line; longer lines are dropped.
MAX_LINE = 1 << 20
# Seconds between SIGTERM and SIGKILL for an engine, and then until its guard is killed.
STOP_GRACE = 2.0
GUARD_GRACE = 2.0
# Seconds between two checks of the guard.
GUARD_INTERVAL = 1.0
# Seconds for the last lines to arrive. A detached child of the engine may hold the pipe open.
OUTPUT_GRACE = 0.5
# Disables telemetry of engines and libraries.
_NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OTEL_SDK_DISABLED": "true",
}


class EngineProcess:
    """A child process under a guard. It is started once; a restart needs a new object.

    Args:
        name: name for log lines, such as `llama_cpp/smollm2-135m`.
        pidfile: file to which the guard writes the engine's pid, for cleanup after a crash of the
            supervisor.
        on_line: called with each line of output.
    """

    def __init__(
        self, name: str, pidfile: Path, on_line: Callable[[str], object] | None = None
    ) -> None:
        self._name = name
        self._pidfile = pidfile
        self._on_line = on_line
        self._pid: int | None = None
        self._guard: asyncio.subprocess.Process | None = None
        self._commands: int | None = None
        self._end: asyncio.Task[int] | None = None
        self._guard_check: asyncio.Task[None] | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        # Whether the output may contain text of requests, so that it must be redacted.
        self.is_private = False

    @property
    def pid(self) -> int | None:
        """Pid of the engine, None until the guard has started it."""
        if self._pid is None:
            with contextlib.suppress(OSError, ValueError):
                self._pid = int(self._pidfile.read_text())
        return self._pid

    @property
    def tail(self) -> list[str]:
        """The last lines of output; complete after `wait` has returned."""
        return list(self._tail)

    @property
    def has_ended(self) -> bool:
        return self._end is not None and self._end.done()

    async def start(self, launch: LaunchSpec) -> None:
        """Start the command under a guard. Returns before the engine is ready.

        Raises:
            EngineFailed: the guard could not be started.
        """
        starting = asyncio.create_task(self._start_guard(launch))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Otherwise asyncio would kill the guard, and on macOS the engine would keep running.
            await asyncio.wait({starting})
            raise

    async def wait(self) -> int:
        """Wait for the end of the process.

        Returns:
            The exit status; 128 + n after signal n.
        """
        assert self._end is not None  # noqa: S101 - started
        return await asyncio.shield(self._end)

    async def stop(self, grace: float = STOP_GRACE) -> None:
        """Stop the engine with SIGTERM, then kill it and its children. Idempotent.

        Args:
            grace: seconds between SIGTERM and SIGKILL.
        """
        if self._guard is None or self._end is None:
            return
        if self._commands is not None:
            with contextlib.suppress(OSError):  # the guard has just ended
                os.write(self._commands, b"T")
        await asyncio.wait({self._end}, timeout=grace)
        self._close_commands()
        await asyncio.wait({self._end}, timeout=GUARD_GRACE)
        if not self._end.done():  # a guard that was stopped (SIGSTOP) reads nothing
            with contextlib.suppress(ProcessLookupError):
                self._guard.kill()
        await self.wait()

    async def _start_guard(self, launch: LaunchSpec) -> None:
        # Own pipes: `wait` of asyncio's would not return before every process that inherited one
        # has closed it, and a leftover child of the engine may hold the output open.
        (commands, self._commands), (output, output_writer) = os.pipe(), os.pipe()
        command = [sys.executable, "-I", "-S", guard.__file__, str(self._pidfile), *launch.command]
        try:
            self._guard = await asyncio.create_subprocess_exec(
                *command,
                stdin=commands,
                stdout=output_writer,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **_NO_TELEMETRY, **launch.env},
            )
        except OSError as error:
            self._close_commands()
            os.close(output)
            raise EngineFailed(
                f"The engine process could not be started: {error}. See errors.log.",
                status=503,
                code="model_load_failed",
            ) from error
        finally:
            os.close(commands)
            os.close(output_writer)
        self._end = asyncio.create_task(self._finish(self._guard, output))
        self._guard_check = asyncio.create_task(self._check_guard(self._guard))

    async def _finish(self, process: asyncio.subprocess.Process, output: int) -> int:
        stream = asyncio.StreamReader(limit=MAX_LINE)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(output, "rb", 0)
        )
        reading = asyncio.create_task(self._read(stream))
        status = await process.wait()
        if self._guard_check is not None:
            self._guard_check.cancel()
        if status < 0:
            self._kill_group()
        await asyncio.wait({reading}, timeout=OUTPUT_GRACE)
        reading.cancel()
        pipe.close()
        self._close_commands()
        self._pidfile.unlink(missing_ok=True)
        return status

    async def _check_guard(self, process: asyncio.subprocess.Process) -> None:
        """Kill a guard that does not report the end of its engine: it may be stopped (SIGSTOP)."""
        has_ended = False
        while not self.has_ended:
            await asyncio.sleep(GUARD_INTERVAL)
            # A running guard may just be about to report it.
            had_ended, has_ended = has_ended, self.pid is not None and _is_over(self.pid)
            if had_ended and has_ended:
                log.error("guard replaced", engine=self._name, guard_pid=process.pid)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while line := await _next_line(stream):
            text = line.decode(errors="replace").rstrip()
            if text and self._on_line is not None:
                self._on_line(text)
            text = text[:LINE_CHARACTERS]
            if shown := redact(text) if self.is_private else text:
                self._tail.append(shown)
                log.debug("engine output", engine=self._name, line=shown)

    def _close_commands(self) -> None:
        """Close the command pipe, at which the guard kills the engine."""
        commands, self._commands = self._commands, None
        if commands is not None:
            os.close(commands)

    def _kill_group(self) -> None:
        # The guard was killed. On Linux the kernel kills the engine, but not its children. On macOS
        # both keep running.
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


def _is_over(pid: int) -> bool:
    """Whether a process has ended, collected by its parent or not."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


async def _next_line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # the line exceeds the buffer
        return b"(line too long)\n"
