"""Starts the new version with the sockets of the old one, by systemd's socket protocol."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence

from vllm_obtain.server.upgrade.channel import FIRST

# A shell sets LISTEN_PID to the pid of the new process, and resolves the working directory again,
# which may be a link to the newest version.
_SHELL_SCRIPT = 'cd "$1" && shift && export LISTEN_PID=$$ && exec "$@"'
# Descriptors are first copied to numbers from here on, above those of the child.
_COPY_FROM = 64


def spawn(
    folder: str,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    sockets: Sequence[int],
    connection: int,
) -> int:
    """Start a gunicorn master with the command line of this one.

    Args:
        folder: working directory of this master.
        arguments: `sys.argv` of this master.
        environ: environment of the new master.
        sockets: listening sockets; they become descriptors 3 and up.
        connection: the new master's end of the connection; becomes the descriptor after those.

    Returns:
        The pid of the new master.
    """
    program, *rest = arguments
    # `vllm-obtain serve` runs `python -m gunicorn`; otherwise it is gunicorn's own script.
    start = ["-m", "gunicorn"] if program.endswith("__main__.py") else [program]
    command = ["/bin/sh", "-c", _SHELL_SCRIPT, "sh", folder, sys.executable, *start, *rest]
    descriptors = [*sockets, connection]
    environ = {**environ, "LISTEN_FDS": str(len(sockets))}
    with _copies(descriptors) as copies:
        targets = range(FIRST, FIRST + len(descriptors))
        actions: list[tuple[int, ...]] = [
            (os.POSIX_SPAWN_DUP2, copy, target)
            for copy, target in zip(copies, targets, strict=True)
        ]
        actions += [(os.POSIX_SPAWN_CLOSE, each) for each in descriptors if each not in targets]
        # In a process group of its own, because the first process forwards Ctrl-C.
        return os.posix_spawn(
            "/bin/sh",
            command,
            environ,
            file_actions=actions,
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE],
        )


@contextlib.contextmanager
def _copies(descriptors: Sequence[int]) -> Iterator[list[int]]:
    copies: list[int] = []
    try:
        for descriptor in descriptors:
            copies.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _COPY_FROM))
        yield copies
    finally:
        for copy in copies:
            os.close(copy)
