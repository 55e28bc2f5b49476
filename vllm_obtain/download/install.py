"""Installs a complete model in place of the installed version, without a gap in between.

MODELS_DIR/.previous-NAME           the previous version, kept by an update
MODELS_DIR/.fetching-NAME/replaced  the previous version between two renames; see `recover`
MODELS_DIR/.removing-*              trash; see `delete_trash`
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vllm_obtain.download.atomic_swap import exchange
from vllm_obtain.download.staging import PREFIX as STAGING_PREFIX
from vllm_obtain.download.staging import StagingDir, size_of
from vllm_obtain.fs import sync_folder, try_locked

PREFIX: Final = ".previous-"
# Prefix of trash folders, which every removal and every start of the service delete.
BIN: Final = ".removing-"


def previous(models_dir: Path, name: str) -> Path:
    """The path of a model's previous version, which exists if one is kept."""
    return models_dir / f"{PREFIX}{name}"


def install_version(new: Path, target: Path, keep: bool) -> None:
    """Install a complete model folder; the replaced version is kept or moved to the trash.

    Only renames: `finish_interrupted` syncs the disk and deletes the trash.

    Args:
        new: a verified folder with a manifest, below MODELS_DIR; may be the previous version.
        target: the model's folder.
        keep: whether the replaced version becomes the previous version.

    Raises:
        OSError: the rename failed; the installed version is unchanged.
    """
    models_dir, name = target.parent, target.name
    if not os.path.lexists(target):
        new.replace(target)
        return
    old = new if exchange(new, target) else _in_two_steps(new, target)
    # The new version is installed, so errors with the old one are ignored.
    with contextlib.suppress(OSError):
        previous_version = previous(models_dir, name)
        if keep and old == previous_version:
            return
        # Only the version before the installed one may stay, never an older one.
        _move_to_trash(previous_version, models_dir)
        if keep:
            old.replace(previous_version)
        else:
            _move_to_trash(old, models_dir)


def recover(models_dir: Path) -> None:
    """Restore models whose installation was killed between the two renames of `_in_two_steps`."""
    for old in models_dir.glob(f"{STAGING_PREFIX}*/replaced"):
        name = old.parent.name.removeprefix(STAGING_PREFIX)
        with contextlib.suppress(OSError), _try_lock(models_dir, name) as has_lock:
            if has_lock and not os.path.lexists(models_dir / name):
                old.replace(models_dir / name)
            elif has_lock:
                shutil.rmtree(old, ignore_errors=True)


def free_space(models_dir: Path, needed: int, name: str) -> int:
    """Delete previous versions, oldest first, until enough disk space is free.

    Nothing is deleted if all previous versions together would not free enough.

    Args:
        models_dir: MODELS_DIR.
        needed: bytes to have free.
        name: the model that needs the space; the caller holds its lock.

    Returns:
        The free bytes afterwards.
    """
    versions = sorted(models_dir.glob(f"{PREFIX}*"), key=_age)
    if shutil.disk_usage(models_dir).free + sum(map(size_of, versions)) < needed:
        versions = []
    while (free := shutil.disk_usage(models_dir).free) < needed and versions:
        folder = versions.pop(0)
        model = folder.name.removeprefix(PREFIX)
        with contextlib.suppress(OSError), _try_lock(models_dir, model, model == name) as has_lock:
            if has_lock:
                shutil.rmtree(folder, ignore_errors=True)
    return free


def delete_trash(models_dir: Path) -> None:
    """Delete the trash folders, also those of a killed process."""
    for trash in models_dir.glob(f"{BIN}*"):
        shutil.rmtree(trash, ignore_errors=True)


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_ctime  # the time of the rename; mtime may be older
    except OSError:
        return 0.0


def _in_two_steps(new: Path, target: Path) -> Path:
    """Replace a folder where atomic exchange is unsupported; the model is missing for a moment."""
    folder = target.parent / f"{STAGING_PREFIX}{target.name}"
    folder.mkdir(exist_ok=True)
    old = folder / "replaced"
    if old.exists():
        shutil.rmtree(old)
    target.replace(old)
    try:
        new.replace(target)
    except OSError:
        old.replace(target)
        raise
    return old


def _move_to_trash(folder: Path, models_dir: Path) -> None:
    if os.path.lexists(folder):
        folder.replace(Path(tempfile.mkdtemp(prefix=BIN, dir=models_dir)) / folder.name)


@contextlib.contextmanager
def _try_lock(models_dir: Path, name: str, is_locked: bool = False) -> Iterator[bool]:
    """Try to lock a model; yields whether the caller holds the lock.

    Args:
        models_dir: MODELS_DIR.
        name: the model's name.
        is_locked: whether the caller holds the lock already.
    """
    if is_locked:
        yield True
        return
    with try_locked(StagingDir(models_dir, name).lock) as locked:
        yield locked


def finish_interrupted(models_dir: Path) -> None:
    """Sync the renames of `install_version` to the disk, then delete the trash."""
    sync_folder(models_dir)
    delete_trash(models_dir)
