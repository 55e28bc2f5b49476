"""Opening files of unknown origin: only regular ones, never waiting, never more than asked for."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file as the disk knows it.

    Args:
        path: where it is.
        size: bytes; of the target if it is a link.
        mtime_ns: time of the last change, nanoseconds since 1970.
    """

    path: Path
    size: int
    mtime_ns: int


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a regular file for reading.

    Args:
        path: the file; a link is followed.

    Yields:
        Its file descriptor, closed at the end.

    Raises:
        OSError: it can't be opened, or is a pipe, a device or a folder.
    """
    # Without O_NONBLOCK, opening a named pipe waits for a writer, for ever.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        yield fd
    finally:
        os.close(fd)


def read_limited(path: Path, limit: int) -> bytes:
    """Read a whole small file.

    Args:
        path: the file.
        limit: the most bytes it may have.

    Returns:
        Its content.

    Raises:
        OSError: it can't be read, or is larger.
    """
    with opened(path) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"Larger than {limit} bytes")
        return os.pread(fd, size, 0)
