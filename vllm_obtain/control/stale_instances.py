"""Cleanup after killed services: their sockets, pid files, engines and lock files.

A service cleans up its own folder with `runtime_dir.sweep`, and those of other ports with `clear`.
Another service may start there at the same time. It holds the lock of its port, and has touched
its folder.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from vllm_obtain.control import runtime_dir
from vllm_obtain.fs import try_lock

# Seconds after which a folder without a service no longer belongs to a starting one.
AGE = 5.0


def clear(own: Path) -> list[Path]:
    """Remove the folders of killed services on other ports.

    Args:
        own: the folder of this instance.

    Returns:
        The removed folders.
    """
    removed = []
    for lock in sorted(own.parent.glob(f"*{runtime_dir.START_LOCK}")):
        folder = lock.with_suffix("")
        if folder != own and _is_instance_folder(folder.name) and _remove_if_dead(lock, folder):
            removed.append(folder)
    return removed


def give_up(own: Path) -> None:
    """Remove the lock file of an instance that has ended, unless another one is starting."""
    with _try_lock(own.with_suffix(runtime_dir.START_LOCK)) as lock:
        if lock is not None and not own.exists():
            lock.unlink()
    with contextlib.suppress(OSError):
        own.parent.rmdir()


def _is_instance_folder(name: str) -> bool:
    return any(name.removesuffix(place).isdigit() for place in runtime_dir.PLACES)


def _remove_if_dead(lock: Path, folder: Path) -> bool:
    with _try_lock(lock) as acquired:
        if acquired is None or not _is_dead(folder):
            return False
        existed = folder.exists()
        runtime_dir.sweep(folder)
        runtime_dir.empty(folder)
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
    return runtime_dir.service_pid(folder) is None and not _is_listening(
        folder / runtime_dir.CONTROL
    )


def _is_listening(path: Path) -> bool:
    """Whether a supervisor listens. One that is too busy to accept counts as alive."""
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
def _try_lock(path: Path) -> Iterator[Path | None]:
    """Lock a file for a block; None if another process holds it, or the file is gone."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        yield path if try_lock(handle) and is_same(handle, path) else None
    finally:
        os.close(handle)


def is_same(handle: int, path: Path) -> bool:
    """Whether an open file still has this path. A lock on a deleted file has no effect."""
    try:
        current, opened = path.stat(), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (current.st_dev, current.st_ino) == (opened.st_dev, opened.st_ino)
