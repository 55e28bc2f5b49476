"""A lock between processes."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, notice: str) -> Iterator[None]:
    """Hold a lock; the system releases it even if this process is killed.

    Args:
        path: the lock file; made if missing, and left behind, since removing it would let two in.
        notice: printed to the terminal if another process has to be waited for.

    Raises:
        OSError: the file can't be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(notice, file=sys.stderr)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
