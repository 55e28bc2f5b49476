"""A lock between processes."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_obtain.fs import try_lock


@contextmanager
def locked(path: Path, notice: str) -> Iterator[None]:
    """Hold a lock; the kernel releases it if the process is killed.

    Args:
        path: the lock file; created if missing. It is not deleted, since that would let two
            processes lock at once.
        notice: printed to stderr if another process holds the lock.

    Raises:
        OSError: the file cannot be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not try_lock(fd):
            print(notice, file=sys.stderr)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
