"""What services left behind that were killed: their sockets, pid files, engines and lock files.

One that starts clears up after those on other ports too; its own place is `runtime.sweep`'s.
Somebody may be starting there at the same moment: whoever starts holds the lock of the port, and
has touched its folder just before.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from vllm_obtain.supervisor import runtime

# Seconds after which a folder without a service is not one of a service that begins.
AGE = 5.0


def clear(own: Path) -> list[Path]:
    """Remove what dead services left beside one's own place.

    Args:
        own: the folder of the instance that looks.

    Returns:
        The folders that are gone now.
    """
    gone = []
    for lock in sorted(own.parent.glob(f"*{runtime.START_LOCK}")):
        folder = lock.with_suffix("")
        if folder != own and _is_place(folder.name) and _cleared(lock, folder):
            gone.append(folder)
    return gone


def give_up(own: Path) -> None:
    """Remove the lock file of an instance that has ended, unless somebody starts there."""
    with _held(own.with_suffix(runtime.START_LOCK)) as lock:
        if lock is not None and not own.exists():
            lock.unlink()
    with contextlib.suppress(OSError):
        own.parent.rmdir()


def _is_place(name: str) -> bool:
    return any(name.removesuffix(place).isdigit() for place in runtime.PLACES)


def _cleared(lock: Path, folder: Path) -> bool:
    with _held(lock) as held:
        if held is None or not _is_dead(folder):
            return False
        existed = folder.exists()
        runtime.sweep(folder)
        runtime.empty(folder)
        with contextlib.suppress(OSError):
            folder.rmdir()
        if not folder.exists():
            lock.unlink()
        return existed and not folder.exists()


def _is_dead(folder: Path) -> bool:
    try:
        if time.time() - folder.stat().st_mtime < AGE:
            return False
    except FileNotFoundError:
        return True
    return runtime.noted(folder) is None and not _answers(folder / runtime.CONTROL)


def _answers(path: Path) -> bool:
    """Whether somebody listens; one that is too busy to take a connection lives too."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
        return True


@contextlib.contextmanager
def _held(path: Path) -> Iterator[Path | None]:
    """Hold a lock file for a block; None when somebody else does, or there is none any more."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path if is_same(handle, path) else None
    except BlockingIOError:
        yield None
    finally:
        os.close(handle)


def is_same(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of that name: a lock on a removed one locks nothing."""
    try:
        found, opened = path.stat(), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)
