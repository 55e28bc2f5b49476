"""The file with the hashes of API keys: read by the gateway, changed by `vllm-obtain keys`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from vllm_obtain.access.key import Key

Stamp = tuple[int, int, int] | None


class KeyFileError(Exception):
    """The file cannot be used; the message says why and what to do."""


class _Content(Struct, forbid_unknown_fields=True):
    keys: list[Key]
    version: int = 1


def stamp(path: Path) -> Stamp:
    """Tell one state of the file from another without reading it; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read(path: Path) -> list[Key]:
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
            f"KEYS_FILE={path} can be written by other users, who could let themselves in. "
            f"Look at its keys (vllm-obtain keys list), then: chmod 600 {path}"
        )
    try:
        return msgspec.json.decode(text, type=_Content).keys
    except ValueError as error:
        raise KeyFileError(
            f"KEYS_FILE={path} is not a file of keys: {error}. Mend it, or remove it and make new "
            "keys with `vllm-obtain keys create`."
        ) from error


def change(path: Path, edit: Callable[[list[Key]], list[Key]]) -> None:
    """Change the keys; of two that do so at once, one waits for the other.

    Args:
        path: the file; it is made, with mode 600, if there is none.
        edit: gives the new keys, from those that there are.

    Raises:
        KeyFileError: it cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            _write(path, msgspec.json.encode(_Content(edit(read(path)))))
    except OSError as error:
        raise KeyFileError(f"KEYS_FILE={path} cannot be written: {error.strerror}.") from error


def _write(path: Path, content: bytes) -> None:
    # A new file takes the old one's place at once: nobody ever reads half of it.
    target = path.resolve()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(content, indent=1) + b"\n")
            os.fchmod(file.fileno(), 0o600)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
