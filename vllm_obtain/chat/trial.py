"""Asks `trial_process` whether a grammar can be held; a worker has one, started when needed."""

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

from vllm_obtain.chat import trial_process
from vllm_obtain.errors import InternalError

_LENGTH = struct.Struct(">I")
# Answers that are remembered, by the grammar's fingerprint: grammars are up to half a megabyte.
_MOST_KNOWN = 1024
# Seconds until a process is given up that neither answers nor uses its time.
_PATIENCE = 30.0
_TOO_LONG = "it takes too long to compile"
_TOO_DEEP = "it is too large, or nested too deeply"


def problem(grammar: str) -> str:
    """Say what is wrong with a grammar.

    Returns:
        A sentence's beginning; empty if the grammar can be held.

    Raises:
        InternalError: no process can be had to find out.
    """
    return _of_process(os.getpid()).problem(grammar)


class _Trial:
    """The process, and what it said before."""

    def __init__(self) -> None:
        # Made when first needed, and so after gevent has put its own locks in place.
        self._lock = threading.Lock()
        self._known: dict[bytes, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def problem(self, grammar: str) -> str:
        text = grammar.encode()
        key = hashlib.blake2b(text, digest_size=24).digest()
        # Without the lock, which is held while a process tries somebody else's grammar.
        if (known := self._known.get(key)) is not None:
            return known
        with self._lock:
            if (known := self._known.get(key)) is not None:
                return known
            said = self._ask(text)
            if len(self._known) == _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = said
            return said

    def _ask(self, text: bytes) -> str:
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
        raise InternalError("The form of the answer could not be checked. Try again.")

    def _start(self) -> socket.socket:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-P", trial_process.__file__],
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt is for us; it ends when we hang up
            )
        ours.settimeout(_PATIENCE)
        self._line = ours
        return ours

    def _end(self) -> int | None:
        """Hang up and say how the process ended, None if it was never there."""
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
def _of_process(pid: int) -> _Trial:  # noqa: ARG001 - a forked process has its own
    return _Trial()


def _read(line: socket.socket, length: int) -> bytes:
    got = bytearray()
    while len(got) < length:
        more = line.recv(min(65536, length - len(got)))
        if not more:
            raise ConnectionError("the process ended")
        got += more
    return bytes(got)
