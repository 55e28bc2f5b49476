"""Opens untrusted files safely: regular files only, without blocking, with a size limit."""

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
    """The path and the metadata of a file.

    Args:
        path: the path.
        size: bytes; of the target for a link.
        mtime_ns: the modification time in nanoseconds since 1970.
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
        The file descriptor, which is closed on exit.

    Raises:
        OSError: the file cannot be opened, or is a pipe, a device or a folder.
    """
    # Without O_NONBLOCK, opening a named pipe blocks until a writer opens it.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        yield fd
    finally:
        os.close(fd)


def read_limited(path: Path, limit: int) -> bytes:
    """Read a small file.

    Args:
        path: the file.
        limit: the maximum size in bytes.

    Returns:
        The content.

    Raises:
        OSError: the file cannot be read, or is larger than the limit.
    """
    with opened(path) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"Larger than {limit} bytes")
        return os.pread(fd, size, 0)
