"""Runs work of unknown cost in a few processes with limits: `sandbox_worker`.

Each gateway worker has up to three such processes, started on demand. One caller uses at most two
of them at a time, and waiting callers take turns, so each waits for at most one piece of work of
each other caller. Work of clients that disconnect is killed.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import psutil

from vllm_obtain.chat import sandbox_worker
from vllm_obtain.chat.sandbox_worker import LENGTH
from vllm_obtain.errors import Overloaded, RequestTimeout
from vllm_obtain.gevent_compat import is_cooperative

PROCESSES = 3
_PER_CALLER = 2
# Seconds until a process that uses no CPU time is killed: it was stopped, or the machine is busy.
WALL_SECONDS = 10.0
# macOS has no limit of a process's memory that binds.
_SYSTEM_LIMITS_MEMORY = sys.platform == "linux"
# How often a request that waits looks whether its client is still there.
_POLL_SECONDS = 0.1
# A process that handled more keeps too much memory.
_LARGE = 8 * 1024 * 1024
# What a process gets of the environment; keys and tokens are not among it.
_VARIABLES = "PATH LANG LC_ALL TZ LD_LIBRARY_PATH DYLD_LIBRARY_PATH PYTHONHOME".split()
_STACK_SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class LimitExceeded(Exception):
    """The work exceeded a limit, so nothing is known about its result.

    Args:
        reason: the limit.
    """

    def __init__(self, reason: Literal["time", "memory", "stack", "output"]) -> None:
        super().__init__(reason)
        self.reason = reason


class Refused(Exception):
    """The work itself reports an error.

    Args:
        message: for the client.
        param: the request field.
    """

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(message)
        self.message, self.param = message, param


class Cancellation(Protocol):
    """Whether a request is cancelled, and what to raise then."""

    @property
    def is_cancelled(self) -> bool: ...

    @property
    def cause(self) -> Exception: ...


class Caller(Protocol):
    """For whom work is done; a `RequestContext` is one too."""

    @property
    def owner(self) -> str: ...

    @property
    def deadline(self) -> float: ...

    @property
    def cancel(self) -> Cancellation | None: ...


@dataclass(frozen=True, slots=True)
class Work:
    """A caller; attributes as in `Caller`. By default, nobody can cancel the work.

    Args:
        owner: the API key.
        deadline: monotonic seconds.
        cancel: cancels the work.
    """

    owner: str = ""
    deadline: float = math.inf
    cancel: Cancellation | None = None


# Set by the gateway while it prepares a request.
CALLER: ContextVar[Caller] = ContextVar("CALLER", default=Work())  # noqa: B039 - never changed


def run(operation: str, *arguments: Any) -> Any:
    """Do a piece of work in a process of the sandbox.

    Args:
        operation: a key of `sandbox_worker.LIMITS`.
        arguments: of the function, as JSON values.

    Returns:
        The result as JSON values.

    Raises:
        LimitExceeded: it exceeded a limit. Another attempt may succeed, so do not remember it.
        Refused: the work reports an error.
        Overloaded: no process responds.
        RequestTimeout: the caller's deadline passed.
        ClientDisconnected, ServiceError: the request was cancelled.
    """
    return _of_process(os.getpid()).run(operation, arguments)


def start() -> None:
    """Start the first process, which the first request would wait for otherwise."""
    _of_process(os.getpid()).start()


class _Turn:
    """A piece of work that waits for a process."""

    def __init__(self) -> None:
        self.granted = threading.Event()


class Sandbox:
    """The processes of one gateway worker, and who may use them."""

    def __init__(self) -> None:
        # Created on first use, after gevent has patched the locks.
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._busy: Counter[str] = Counter()
        # In the order of the callers' turns.
        self._waiting: dict[str, deque[_Turn]] = {}

    @property
    def pids(self) -> list[int]:
        """The process ids of those that are idle, the next to be used last."""
        return [process.pid for process in self._idle]

    def start(self) -> None:
        with contextlib.suppress(OSError):  # the first request reports it
            self._idle.append(_Process())

    def run(self, operation: str, arguments: tuple[Any, ...]) -> Any:
        request = _encode([operation, arguments])
        caller = CALLER.get()
        _check(caller)
        self._wait_for_turn(caller)
        try:
            status, value = _decode(self._exchange(request, caller))
        finally:
            self._end_turn(caller.owner)
        if status == sandbox_worker.DONE:
            return value
        if status == sandbox_worker.REFUSED:
            raise Refused(*value)
        raise LimitExceeded("memory" if status == sandbox_worker.MEMORY else "output")

    def _exchange(self, request: bytes, caller: Caller) -> bytes:
        with contextlib.suppress(IndexError, ConnectionError, TimeoutError):
            return self._exchange_with(self._idle.pop(), request, caller)
        # It was killed or stopped from outside. A new process shows whether that was an accident.
        try:
            return self._exchange_with(_Process(), request, caller)
        except OSError:
            raise Overloaded(
                "The request could not be prepared: the process for it did not respond. Try again.",
                retry_after=1,
            ) from None

    def _exchange_with(self, process: _Process, request: bytes, caller: Caller) -> bytes:
        try:
            reply = process.exchange(request, caller)
        except ConnectionError:
            code = process.end()
            if code == -signal.SIGPROF:
                raise LimitExceeded("time") from None
            if code is not None and -code in _STACK_SIGNALS:
                raise LimitExceeded("stack") from None
            raise
        except BaseException:
            process.kill()
            raise
        if len(request) + len(reply) < _LARGE:
            self._idle.append(process)
        else:
            process.end()
        return reply

    def _wait_for_turn(self, caller: Caller) -> None:
        owner = caller.owner
        with self._lock:
            if self._has_process_for(owner):
                self._busy[owner] += 1
                return
            turn = _Turn()
            self._waiting.setdefault(owner, deque()).append(turn)
        try:
            while not turn.granted.wait(_POLL_SECONDS):
                _check(caller)
        except BaseException:
            with self._lock:
                granted = turn.granted.is_set()
                if not granted:
                    self._waiting[owner].remove(turn)
            if granted:
                self._end_turn(owner)
            raise

    def _end_turn(self, owner: str) -> None:
        """Let the next caller use the process: the one whose last turn is the longest ago."""
        with self._lock:
            self._busy[owner] -= 1
            if not self._busy[owner]:
                del self._busy[owner]
            for each in list(self._waiting):
                turns = self._waiting[each]
                if turns and not self._has_process_for(each):
                    continue
                del self._waiting[each]
                if turns:
                    self._busy[each] += 1
                    turns.popleft().granted.set()
                    if turns:
                        self._waiting[each] = turns
                    return

    def _has_process_for(self, owner: str) -> bool:
        return self._busy.total() < PROCESSES and self._busy[owner] < _PER_CALLER


class _Process:
    """One process and the connection to it."""

    def __init__(self) -> None:
        self._line, its = socket.socketpair()
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environ = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        # The kernel ends it with the thread that starts it, which ends with the gateway worker only
        # where there are no other threads.
        options = [sandbox_worker.END_WITH_PARENT] if is_cooperative() else []
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-P", "-m", sandbox_worker.__name__, *options],
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                start_new_session=True,  # not interrupted with us; ends when the socket closes
            )
        self._line.settimeout(_POLL_SECONDS)

    @property
    def pid(self) -> int:
        return self._process.pid

    def exchange(self, request: bytes, caller: Caller) -> bytes:
        """Send a request and return the reply.

        Raises:
            ConnectionError: the process ended.
            TimeoutError: it does not respond.
            LimitExceeded: it has too much memory.
        """
        end = time.monotonic() + WALL_SECONDS
        rest = memoryview(LENGTH.pack(len(request)) + request)
        while rest:
            try:
                rest = rest[self._line.send(rest) :]
            except TimeoutError:
                self._check(caller, request, end)
        received, size = bytearray(), LENGTH.size
        while len(received) < size:
            try:
                data = self._line.recv(262_144)
            except TimeoutError:
                self._check(caller, request, end)
                continue
            if not data:
                raise ConnectionResetError("the process ended")
            received += data
            if size == LENGTH.size <= len(received):
                size += LENGTH.unpack_from(received)[0]
        return bytes(memoryview(received)[LENGTH.size :])

    def _check(self, caller: Caller, request: bytes, end: float) -> None:
        _check(caller)
        if time.monotonic() > end:
            raise TimeoutError
        if not _SYSTEM_LIMITS_MEMORY:
            operation = _decode(request)[0]
            with contextlib.suppress(psutil.Error):
                used = psutil.Process(self.pid).memory_info().rss
                if used > sandbox_worker.memory_limit(operation, len(request)):
                    raise LimitExceeded("memory")

    def kill(self) -> None:
        self._process.kill()
        self._line.close()
        self._process.wait()

    def end(self) -> int:
        """Close the connection and return the exit status."""
        self._line.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(5)
        self._process.kill()
        return self._process.wait()


def _check(caller: Caller) -> None:
    """Raise if nobody waits for the result any more."""
    if caller.cancel is not None and caller.cancel.is_cancelled:
        raise caller.cancel.cause
    if time.monotonic() > caller.deadline:
        raise RequestTimeout("The request was not prepared within REQUEST_TIMEOUT.")


@functools.cache
def _of_process(pid: int) -> Sandbox:  # noqa: ARG001 - a forked process has its own
    return Sandbox()
