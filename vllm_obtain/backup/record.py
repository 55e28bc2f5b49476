"""What a backup says of itself: `backup.json`, written when all else is there."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
from msgspec import Struct

from vllm_obtain.errors import StartError

FILE: Final = "backup.json"
VERSION: Final = 1


class Copied(Struct, frozen=True):
    """A file of a backup.

    Args:
        place: which `Place` it belongs to.
        path: below that, empty for the place itself.
        size: bytes.
        changed: when its content changed last, in nanoseconds since 1970.
        mode: its rights.
        sha256: of its content; empty for a link.
        link: where a link leads, empty for a file.
    """

    place: str
    path: str
    size: int
    changed: int
    mode: int
    sha256: str = ""
    link: str = ""

    @property
    def where(self) -> str:
        """Where it lies in the backup's folder."""
        return f"{self.place}/{self.path}" if self.path else self.place


class Record(Struct, frozen=True):
    """A backup.

    Args:
        version: of this format.
        made: seconds since 1970.
        service: the version of the service that made it.
        files: all files, those that were there before too.
    """

    version: int
    made: int
    service: str
    files: list[Copied]


class BackupError(StartError):
    """A backup cannot be made or used; the message says why and what to do."""


def read(folder: Path) -> Record | None:
    """Read what a backup has; None where there is none.

    Raises:
        BackupError: it cannot be read, or is not what it should be.
    """
    try:
        text = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackupError(f"{folder / FILE} cannot be read: {error.strerror}.") from error
    try:
        found = msgspec.json.decode(text, type=Record)
    except msgspec.MsgspecError as error:
        raise BackupError(f"{folder / FILE} is no record of a backup: {error}.") from error
    if found.version != VERSION:
        raise BackupError(
            f"{folder} was made by version {found.service}, in a form that this one does not know. "
            "Use that version, or a newer one."
        )
    for each in found.files:
        if not _stays_inside(each):
            raise BackupError(
                f"{folder / FILE} names {each.link or each.path}, which is not in the backup."
            )
    return found


def write(folder: Path, record: Record) -> None:
    """Write it in one step."""
    new = folder / f"{FILE}.new"
    new.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    new.replace(folder / FILE)


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
