"""Makes incremental backups into a folder, and restores them."""

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
from vllm_obtain.backup import manifest
from vllm_obtain.backup.manifest import BackupError, BackupManifest, Copied
from vllm_obtain.backup.paths import BackupPath

CopyCallback = Callable[[str, int], None]

_BLOCK: Final = 1 << 20
_RESERVE: Final = 64 << 20
_NEW: Final = ".new"


class Outcome(Struct, frozen=True):
    """The result of a backup or restore.

    Args:
        files: the number of files.
        copied: the number of files that were copied.
        bytes: the bytes of the copied files.
        skipped: the files that were left out, with the reason.
    """

    files: int
    copied: int
    bytes: int
    skipped: list[str]


def backup(roots: Sequence[BackupPath], folder: Path, on_copy: CopyCallback) -> Outcome:
    """Copy new and changed files into a backup; files deleted here stay in the backup's folder.

    Args:
        roots: the files and folders to back up.
        folder: the backup's folder; created if missing.
        on_copy: called with the name of a file and the bytes copied since the last call.

    Raises:
        BackupError: the backup failed.
    """
    before = manifest.read(folder)
    known = {file.backup_path: file for file in before.files} if before is not None else {}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        current, skipped = _scan(roots)
        changed = [file for file in current if not _is_unchanged(file, known, folder)]
        _require_space(folder, sum(file.size for file in changed))
        copied = {file.backup_path: _back_up(file, roots, folder, on_copy) for file in changed}
        files = [copied.get(file.backup_path) or known[file.backup_path] for file in current]
        manifest.write(
            folder, BackupManifest(manifest.VERSION, int(time.time()), __version__, files)
        )
    except OSError as error:
        raise BackupError(
            f"The backup in {folder} is incomplete: {_reason(error)}. Fix the cause and run the "
            "backup again."
        ) from error
    size = sum(file.size for file in copied.values())
    return Outcome(len(files), len(copied), size, skipped)


def restore(
    roots: Sequence[BackupPath], folder: Path, force: bool, on_copy: CopyCallback
) -> Outcome:
    """Restore files that are missing here, and with `force` files that differ.

    Args:
        roots: the files and folders to restore.
        folder: the backup's folder.
        force: whether to rename files that differ to NAME.before-restore and restore them.
        on_copy: as in `backup`.

    Raises:
        BackupError: the folder has no backup, files here differ, or the backup is damaged.
    """
    record = manifest.read(folder)
    if record is None:
        raise BackupError(
            f"There is no backup in {folder}: {manifest.FILE} is missing. Check the path."
        )
    by_name = {root.name: root for root in roots}
    files = [file for file in record.files if file.place in by_name]
    missing = [file for file in files if not _is_restored(file, by_name[file.place].at(file.path))]
    targets = {file.backup_path: by_name[file.place].at(file.path) for file in missing}
    differing = [path for path in targets.values() if os.path.lexists(path)]
    if differing and not force:
        raise BackupError(
            f"{len(differing)} files differ from the backup, such as {differing[0]}. Use --force "
            "to rename them to NAME.before-restore and restore the files of the backup."
        )
    try:
        for root in {file.place: by_name[file.place] for file in missing}.values():
            root.path.parent.mkdir(parents=True, exist_ok=True)
            needed = sum(file.size for file in missing if file.place == root.name)
            _require_space(root.path.parent, needed)
        for file in missing:
            _restore(file, folder / file.backup_path, targets[file.backup_path], on_copy)
    except OSError as error:
        raise BackupError(
            f"The restore is incomplete: {_reason(error)}. Fix the cause and run it again."
        ) from error
    return Outcome(len(files), len(missing), sum(file.size for file in missing), [])


def _scan(roots: Sequence[BackupPath]) -> tuple[list[Copied], list[str]]:
    files: list[Copied] = []
    skipped: list[str] = []
    for root in roots:
        for path in root.files():
            real = root.at(path)
            with contextlib.suppress(FileNotFoundError):  # log rotation may rename a file
                stat = real.lstat()
                link = str(real.readlink()) if real.is_symlink() else ""
                if link and not _is_internal(real, root.path):
                    skipped.append(f"{real}: the link points outside of {root.path}")
                    continue
                size = 0 if link else stat.st_size
                mode = stat.st_mode & 0o777
                files.append(Copied(root.name, path, size, stat.st_mtime_ns, mode, link=link))
    return files, skipped


def _is_internal(link: Path, root: Path) -> bool:
    relative = not link.readlink().is_absolute()
    return relative and link.resolve().is_relative_to(root.resolve())


def _is_unchanged(file: Copied, known: dict[str, Copied], folder: Path) -> bool:
    recorded = known.get(file.backup_path)
    if recorded is None or (recorded.size, recorded.link) != (file.size, file.link):
        return False
    copy = folder / file.backup_path
    if file.link:
        return copy.is_symlink()
    return recorded.changed == file.changed and copy.is_file() and copy.stat().st_size == file.size


def _back_up(
    file: Copied, roots: Sequence[BackupPath], folder: Path, on_copy: CopyCallback
) -> Copied:
    (root,) = [root for root in roots if root.name == file.place]
    target = folder / file.backup_path
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if file.link:
        _link(file.link, target)
        return file
    new = target.with_name(target.name + _NEW)
    size, digest = _copy(root.at(file.path), new, file, on_copy)
    new.replace(target)
    # A file that grows meanwhile, such as a log, is backed up again next time.
    changed = file.changed if size == file.size else -1
    return Copied(file.place, file.path, size, changed, file.mode, digest)


def _is_restored(file: Copied, path: Path) -> bool:
    if file.link:
        return path.is_symlink() and str(path.readlink()) == file.link
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return path.stat().st_mtime_ns == file.changed or _digest(path) == file.sha256


def _restore(file: Copied, source: Path, target: Path, on_copy: CopyCallback) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(target.name + _NEW)
    if not file.link:
        _, digest = _copy(source, new, file, on_copy)
        if digest != file.sha256:
            new.unlink()
            raise BackupError(
                f"{source} is damaged: its checksum is wrong. Use another backup. The files "
                "restored so far are intact."
            )
    if os.path.lexists(target):
        target.replace(target.with_name(f"{target.name}.before-restore"))
    if file.link:
        _link(file.link, target)
    else:
        new.replace(target)


def _copy(source: Path, target: Path, file: Copied, on_copy: CopyCallback) -> tuple[int, str]:
    """Copy a file with its permissions and modification time.

    Returns:
        The copied bytes and their sha256.
    """
    checksum, size = hashlib.sha256(), 0
    on_copy(file.backup_path, 0)
    # The file may hold API keys, so it is never readable by others while it is written.
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with source.open("rb") as read, os.fdopen(fd, "wb") as write:
        while block := read.read(_BLOCK):
            write.write(block)
            checksum.update(block)
            size += len(block)
            on_copy(file.backup_path, len(block))
        write.flush()
        os.fsync(write.fileno())
    target.chmod(file.mode)
    if file.changed >= 0:
        os.utime(target, ns=(file.changed, file.changed))
    return size, checksum.hexdigest()


def _link(destination: str, path: Path) -> None:
    new = path.with_name(path.name + _NEW)
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    new.symlink_to(destination)
    new.replace(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed and needed + _RESERVE > free:
        raise BackupError(
            f"{needed / 1e9:.2f} GB must be copied, but {folder} has only {free / 1e9:.2f} GB "
            "free. Free disk space, or choose another disk."
        )


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
