"""KEYS_FILE with the hashes of API keys. The gateway reads it; `vllm-obtain keys` changes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from vllm_obtain.access.api_key import ApiKey
from vllm_obtain.fs import atomic_write

Stamp = tuple[int, int, int] | None


class KeyFileError(Exception):
    """The keys file cannot be used. The message gives the reason and the fix."""


class _Content(Struct, forbid_unknown_fields=True):
    keys: list[ApiKey]
    version: int = 1


def stamp(path: Path) -> Stamp:
    """Tell one state of the file from another without reading it; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read(path: Path) -> list[ApiKey]:
    """Read all keys; none when there is no file.

    Raises:
        KeyFileError: it cannot be read, is not ours, or others could have written it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KeyFileError(f"KEYS_FILE={path} cannot be read: {error.strerror}.") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeyFileError(
            f"KEYS_FILE={path} is writable by other users, who could add keys. "
            f"Check its keys (vllm-obtain keys list), then run: chmod 600 {path}"
        )
    try:
        return msgspec.json.decode(text, type=_Content).keys
    except ValueError as error:
        raise KeyFileError(
            f"KEYS_FILE={path} is not a valid keys file: {error}. Fix it, or delete it and create "
            "new keys with `vllm-obtain keys create`."
        ) from error


def change(path: Path, edit: Callable[[list[ApiKey]], list[ApiKey]]) -> None:
    """Change the keys under a lock.

    Args:
        path: the keys file; created with mode 600 if it does not exist.
        edit: returns the new list of keys for the current one.

    Raises:
        KeyFileError: the file cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            save(path, edit(read(path)))
    except OSError as error:
        raise KeyFileError(f"KEYS_FILE={path} cannot be written: {error.strerror}.") from error


def save(path: Path, keys: list[ApiKey]) -> None:
    """Write a file that `read` can read, with mode 600.

    Raises:
        OSError: it cannot be written.
    """
    content = msgspec.json.format(msgspec.json.encode(_Content(keys)), indent=1) + b"\n"
    atomic_write(path, content, 0o600, sync=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
