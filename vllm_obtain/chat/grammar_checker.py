"""Checks grammars with a `grammar_worker` process, one per gateway worker, started on demand."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading

from vllm_obtain.chat import grammar_worker
from vllm_obtain.errors import InternalError

_LENGTH = struct.Struct(">I")
# Cached results, by the grammar's hash: grammars have up to half a megabyte.
_MOST_KNOWN = 1024
# Seconds until a process that neither answers nor uses CPU time is killed.
_TIMEOUT = 30.0
_TOO_LONG = "it takes too long to compile"
_TOO_DEEP = "it is too large, or nested too deeply"


def problem(grammar: str) -> str:
    """Check a grammar.

    Returns:
        The problem as the start of a sentence; empty if engines can enforce the grammar.

    Raises:
        InternalError: the worker process could not be started.
    """
    return _of_process(os.getpid()).problem(grammar)


def violations(schema: bytes, value: str) -> list[str] | None:
    """Validate a JSON value.

    Args:
        schema: a JSON Schema.
        value: the value as JSON.

    Returns:
        The keywords that the value violates; None if it could not be validated.

    Raises:
        InternalError: the worker process could not be started.
    """
    reply = _of_process(os.getpid()).validate(schema, value)
    return (
        None if reply == grammar_worker.UNCHECKED else [word for word in reply.split(",") if word]
    )


class _Checker:
    """The worker process and its cached results."""

    def __init__(self) -> None:
        # Created on first use, after gevent has patched the locks.
        self._lock = threading.Lock()
        self._known: dict[bytes, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def problem(self, grammar: str) -> str:
        text = grammar.encode()
        key = hashlib.blake2b(text, digest_size=24).digest()
        # Without the lock, which is held while the process checks another grammar.
        if (known := self._known.get(key)) is not None:
            return known
        with self._lock:
            if (known := self._known.get(key)) is not None:
                return known
            result = self._check(text)
            if len(self._known) == _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = result
            return result

    def validate(self, schema: bytes, value: str) -> str:
        request = grammar_worker.VALIDATION + schema + b"\n" + value.encode()
        with self._lock:
            reply = self._check(request)
        return grammar_worker.UNCHECKED if reply in (_TOO_LONG, _TOO_DEEP) else reply

    def _check(self, text: bytes) -> str:
        for _ in range(2):
            try:
                line = self._line or self._start()
                line.sendall(_LENGTH.pack(len(text)) + text)
                return _read(line, _LENGTH.unpack(_read(line, _LENGTH.size))[0]).decode()
            except TimeoutError:
                self._end()
                return _TOO_LONG
            except OSError:
                code = self._end()
                if code == -signal.SIGPROF:
                    return _TOO_LONG
                if code in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGILL):
                    return _TOO_DEEP
        raise InternalError("The structured output could not be checked. Try again.")

    def _start(self) -> socket.socket:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-P", grammar_worker.__file__],
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # not interrupted with us; ends when the socket closes
            )
        ours.settimeout(_TIMEOUT)
        self._line = ours
        return ours

    def _end(self) -> int | None:
        """Close the socket and return the exit status of the process, None if there was none."""
        line, self._line = self._line, None
        process, self._process = self._process, None
        if line is not None:
            line.close()
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(5)
        process.kill()
        return process.wait()


@functools.cache
def _of_process(pid: int) -> _Checker:  # noqa: ARG001 - a forked process has its own
    return _Checker()


def _read(line: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        data = line.recv(min(65536, length - len(received)))
        if not data:
            raise ConnectionError("the process ended")
        received += data
    return bytes(received)
