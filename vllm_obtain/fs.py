"""File locks, atomic writes, checks of the owner, and syncs to the disk.

Locks are `flock` on an open descriptor, not those of the library filelock: some are on folders, and
some callers have to check that the locked file is still the one of that name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


def try_lock(fd: int) -> bool:
    """Lock an open file or folder for this process; the kernel unlocks it when `fd` is closed.

    Args:
        fd: descriptor of the file.

    Returns:
        False if another process holds the lock.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_shared(path: Path) -> int | None:
    """Hold a shared lock on a file or folder, for as long as it is in use.

    Args:
        path: the file or folder itself, so that it also works where no lock file can be created.

    Returns:
        The descriptor to close; None if another process has the lock alone, or the file system
        has no locks.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


@contextlib.contextmanager
def lock_unused(path: Path) -> Iterator[bool]:
    """Hold the lock of a file or folder alone for a block, if no process holds `lock_shared`.

    Args:
        path: the file or folder.

    Yields:
        Whether it is unused, as far as the file system has locks.

    Raises:
        OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        unused = True
        with contextlib.suppress(OSError):
            unused = try_lock(fd)
        yield unused
    finally:
        os.close(fd)


@contextlib.contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a lock file for a block, if no other process holds it.

    The file is created if missing. It is not deleted, since that would let two processes lock at
    once.

    Args:
        path: the lock file.

    Yields:
        Whether the lock is held.

    Raises:
        OSError: the file cannot be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield try_lock(fd)
    finally:
        os.close(fd)


def atomic_write(path: Path, content: bytes | str, mode: int = 0o600, sync: bool = False) -> None:
    """Replace a file, so that readers see either the old or the new content.

    Args:
        path: the file; a symbolic link is followed.
        content: the new content.
        mode: permissions of the file.
        sync: whether the content is on the disk before the file is replaced.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    target = path.resolve()
    fd, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            os.fchmod(file.fileno(), mode)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_own(path: Path) -> str | None:
    """Read a file that this user wrote, in a place where others may put files.

    Args:
        path: the file; a symbolic link is not followed.

    Returns:
        The text; None if there is no such file, if it is no regular file, or if another user owns
        it or may write to it.
    """
    try:
        # O_NONBLOCK: the open of a FIFO would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not is_own(status):
            return None
        return file.read().decode(errors="replace")


def is_own(status: os.stat_result) -> bool:
    """Whether this user owns a file or folder, and no other user may write to it."""
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to the disk, after files in it were created or renamed."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
