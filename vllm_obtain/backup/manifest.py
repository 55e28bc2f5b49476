"""The manifest of a backup: `backup.json`, written after all files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
from msgspec import Struct

from vllm_obtain.errors import StartError
from vllm_obtain.fs import atomic_write

FILE: Final = "backup.json"
VERSION: Final = 1


class Copied(Struct, frozen=True):
    """A file in a backup.

    Args:
        place: the name of the `BackupPath` it belongs to.
        path: the path below it, empty for the `BackupPath` itself.
        size: bytes.
        changed: the modification time in nanoseconds since 1970; -1 if it changed while copying.
        mode: the permission bits.
        sha256: the checksum of the content in hexadecimal; empty for a link.
        link: the target of a link, empty for a file.
    """

    place: str
    path: str
    size: int
    changed: int
    mode: int
    sha256: str = ""
    link: str = ""

    @property
    def backup_path(self) -> str:
        return f"{self.place}/{self.path}" if self.path else self.place


class BackupManifest(Struct, frozen=True):
    """The content of `backup.json`.

    Args:
        version: the version of this format.
        made: the time of the backup, in seconds since 1970.
        service: the version of the service that made the backup.
        files: all files, including those of earlier backups.
    """

    version: int
    made: int
    service: str
    files: list[Copied]


class BackupError(StartError):
    """A backup or restore failed; the message says why and what to do."""


def read(folder: Path) -> BackupManifest | None:
    """Read the manifest of a backup; None if the folder has none.

    Raises:
        BackupError: the manifest cannot be read or is invalid.
    """
    try:
        text = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackupError(
            f"Cannot read {folder / FILE}: {error.strerror}. Check the permissions."
        ) from error
    try:
        manifest = msgspec.json.decode(text, type=BackupManifest)
    except msgspec.MsgspecError as error:
        raise BackupError(
            f"{folder / FILE} is not a valid backup manifest: {error}. Use another backup."
        ) from error
    if manifest.version != VERSION:
        raise BackupError(
            f"{folder} was made by version {manifest.service} in an unknown format. Restore it "
            "with that version or a newer one."
        )
    for file in manifest.files:
        if not _stays_inside(file):
            raise BackupError(
                f"{folder / FILE} lists {file.link or file.path}, which is outside the backup. Do "
                "not restore a backup from a source that you do not trust."
            )
    return manifest


def write(folder: Path, manifest: BackupManifest) -> None:
    atomic_write(folder / FILE, msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def _stays_inside(file: Copied) -> bool:
    path = PurePosixPath(file.path)
    return (
        "/" not in file.place
        and not file.link.startswith("/")
        and _is_below(path)
        and (not file.link or _is_below(path.parent / file.link))
    )


def _is_below(path: PurePosixPath) -> bool:
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or part == "/":
            return False
    return True
