"""Starting the new version, with the sockets of the old one, as systemd hands them over."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence

from vllm_obtain.upgrading.channel import FIRST

# The pid has to be known to the program itself, and the folder may be another one by now (a link
# to the newest version): so a shell goes there first.
_BEGIN = 'cd "$1" && shift && export LISTEN_PID=$$ && exec "$@"'
# Above all descriptors that the child shall have.
_ASIDE = 64


def spawn(
    folder: str,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    sockets: Sequence[int],
    line: int,
) -> int:
    """Start another gunicorn master, as this one was started.

    Args:
        folder: where this one was started.
        arguments: `sys.argv` of this one.
        environ: for the new one.
        sockets: that are listened on; it gets them from descriptor 3 on.
        line: its end of the connection to us; it gets it as the one after the sockets.

    Returns:
        Its pid.
    """
    program, *rest = arguments
    # `python -m gunicorn`, as `vllm-obtain serve` has it, or gunicorn's own script.
    start = ["-m", "gunicorn"] if program.endswith("__main__.py") else [program]
    command = ["/bin/sh", "-c", _BEGIN, "sh", folder, sys.executable, *start, *rest]
    given = [*sockets, line]
    environ = {**environ, "LISTEN_FDS": str(len(sockets))}
    with _copies(given) as copies:
        targets = range(FIRST, FIRST + len(given))
        actions: list[tuple[int, ...]] = [
            (os.POSIX_SPAWN_DUP2, copy, target)
            for copy, target in zip(copies, targets, strict=True)
        ]
        actions += [(os.POSIX_SPAWN_CLOSE, each) for each in given if each not in targets]
        # A group of its own: Ctrl-C in a terminal reaches the first process, which passes it on.
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
    made: list[int] = []
    try:
        for each in descriptors:
            made.append(fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, _ASIDE))
        yield made
    finally:
        for each in made:
            os.close(each)
