"""Makes a backup in a folder, and takes it back. What is there already is not copied again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from vllm_obtain import __version__
from vllm_obtain.backup import record
from vllm_obtain.backup.places import Place
from vllm_obtain.backup.record import BackupError, Copied, Record

Heard = Callable[[str, int], None]

_BLOCK: Final = 1 << 20
_SPARE: Final = 64 << 20
_NEW: Final = ".new"


class Outcome(Struct, frozen=True):
    """What came of it.

    Args:
        files: how many there are.
        copied: how many were copied now.
        bytes: of those.
        skipped: what was left out, and why.
    """

    files: int
    copied: int
    bytes: int
    skipped: list[str]


def backup(places: Sequence[Place], folder: Path, heard: Heard) -> Outcome:
    """Copy what is new or has changed; what is gone here stays in the backup's folder.

    Args:
        places: what to keep.
        folder: of the backup; made if it is not there.
        heard: told what is copied, and bytes as they go.

    Raises:
        BackupError: it cannot be done.
    """
    before = record.read(folder)
    known = {each.where: each for each in before.files} if before is not None else {}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found, skipped = _look(places)
        fresh = [each for each in found if not _is_kept(each, known, folder)]
        _require_room(folder, sum(each.size for each in fresh))
        copied = {each.where: _keep(each, places, folder, heard) for each in fresh}
        files = [copied.get(each.where) or known[each.where] for each in found]
        record.write(folder, Record(record.VERSION, int(time.time()), __version__, files))
    except OSError as error:
        raise BackupError(f"The backup in {folder} is not whole: {_said(error)}.") from error
    size = sum(each.size for each in copied.values())
    return Outcome(len(files), len(copied), size, skipped)


def restore(places: Sequence[Place], folder: Path, force: bool, heard: Heard) -> Outcome:
    """Put back what is missing here, and with `force` what is different.

    Args:
        places: where to.
        folder: of the backup.
        force: whether files here that differ are set aside, as NAME.before-restore.
        heard: as in `backup`.

    Raises:
        BackupError: there is no backup, files here differ, or one of the backup is damaged.
    """
    found = record.read(folder)
    if found is None:
        raise BackupError(f"There is no backup in {folder}: it has no {record.FILE}.")
    homes = {place.name: place for place in places}
    here = [each for each in found.files if each.place in homes]
    missing = [each for each in here if not _is_here(each, homes[each.place].at(each.path))]
    targets = {each.where: homes[each.place].at(each.path) for each in missing}
    differing = [path for path in targets.values() if os.path.lexists(path)]
    if differing and not force:
        raise BackupError(
            f"{len(differing)} files here are not those of the backup, such as {differing[0]}. "
            "With --force they are set aside, as NAME.before-restore."
        )
    try:
        for place in {each.place: homes[each.place] for each in missing}.values():
            place.path.parent.mkdir(parents=True, exist_ok=True)
            needed = sum(each.size for each in missing if each.place == place.name)
            _require_room(place.path.parent, needed)
        for each in missing:
            _put_back(each, folder / each.where, targets[each.where], heard)
    except OSError as error:
        raise BackupError(f"Not everything was put back: {_said(error)}.") from error
    return Outcome(len(here), len(missing), sum(each.size for each in missing), [])


def _look(places: Sequence[Place]) -> tuple[list[Copied], list[str]]:
    found: list[Copied] = []
    skipped: list[str] = []
    for place in places:
        for path in place.files():
            real = place.at(path)
            with contextlib.suppress(FileNotFoundError):  # a log that was renamed just now
                said = real.lstat()
                link = str(real.readlink()) if real.is_symlink() else ""
                if link and not _leads_inside(real, place.path):
                    skipped.append(f"{real}: a link that leads elsewhere")
                    continue
                size = 0 if link else said.st_size
                mode = said.st_mode & 0o777
                found.append(Copied(place.name, path, size, said.st_mtime_ns, mode, link=link))
    return found, skipped


def _leads_inside(link: Path, root: Path) -> bool:
    relative = not link.readlink().is_absolute()
    return relative and link.resolve().is_relative_to(root.resolve())


def _is_kept(now: Copied, known: dict[str, Copied], folder: Path) -> bool:
    before = known.get(now.where)
    if before is None or (before.size, before.link) != (now.size, now.link):
        return False
    kept = folder / now.where
    if now.link:
        return kept.is_symlink()
    return before.changed == now.changed and kept.is_file() and kept.stat().st_size == now.size


def _keep(each: Copied, places: Sequence[Place], folder: Path, heard: Heard) -> Copied:
    (place,) = [place for place in places if place.name == each.place]
    target = folder / each.where
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if each.link:
        _link(each.link, target)
        return each
    new = target.with_name(target.name + _NEW)
    size, digest = _copy(place.at(each.path), new, each, heard)
    new.replace(target)
    # What is written while it is copied, such as a log, is kept as far as it had come.
    changed = each.changed if size == each.size else -1
    return Copied(each.place, each.path, size, changed, each.mode, digest)


def _is_here(each: Copied, path: Path) -> bool:
    if each.link:
        return path.is_symlink() and str(path.readlink()) == each.link
    if not path.is_file() or path.stat().st_size != each.size:
        return False
    return path.stat().st_mtime_ns == each.changed or _digest(path) == each.sha256


def _put_back(each: Copied, kept: Path, target: Path, heard: Heard) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(target.name + _NEW)
    if not each.link:
        _, digest = _copy(kept, new, each, heard)
        if digest != each.sha256:
            new.unlink()
            raise BackupError(
                f"{kept} is damaged: it is not what was kept. What was put back before it is whole."
            )
    if os.path.lexists(target):
        target.replace(target.with_name(f"{target.name}.before-restore"))
    if each.link:
        _link(each.link, target)
    else:
        new.replace(target)


def _copy(source: Path, target: Path, like: Copied, heard: Heard) -> tuple[int, str]:
    made, size = hashlib.sha256(), 0
    heard(like.where, 0)
    # A key that others could read for a moment is no secret.
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with source.open("rb") as read, os.fdopen(handle, "wb") as write:
        while block := read.read(_BLOCK):
            write.write(block)
            made.update(block)
            size += len(block)
            heard(like.where, len(block))
        write.flush()
        os.fsync(write.fileno())
    target.chmod(like.mode)
    if like.changed >= 0:
        os.utime(target, ns=(like.changed, like.changed))
    return size, made.hexdigest()


def _link(to: str, target: Path) -> None:
    new = target.with_name(target.name + _NEW)
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    new.symlink_to(to)
    new.replace(target)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed and needed + _SPARE > free:
        raise BackupError(
            f"{needed / 1e9:.2f} GB are to be copied, and {folder} has {free / 1e9:.2f} GB free: "
            "make room, or choose another disk."
        )


def _said(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
