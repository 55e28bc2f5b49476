"""Puts a whole model in place of the one before, which is there until then and can be kept.

MODELS_DIR/.previous-NAME           the one before, kept by an update
MODELS_DIR/.fetching-NAME/replaced  the one before, between two renames; see `heal`
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vllm_obtain.fetching.exchange import exchange
from vllm_obtain.fetching.workplace import PREFIX as WORKPLACE
from vllm_obtain.fetching.workplace import Workplace, size_of

PREFIX: Final = ".previous-"
# What is in such a folder is nobody's any more; `removing` and every start of a service empty it.
BIN: Final = ".removing-"


def previous(models_dir: Path, name: str) -> Path:
    """Where the version before of a model is, if one is kept."""
    return models_dir / f"{PREFIX}{name}"


def put(new: Path, target: Path, keep: bool) -> None:
    """Have a whole folder take a model's place; what was there is kept, or thrown into a bin.

    A few renames, and nothing that waits for the disk: `settle` does that.

    Args:
        new: below MODELS_DIR too; checked, with its manifest. The version before may be it.
        target: the model's folder, or where it shall be.
        keep: whether what was there becomes the version before.

    Raises:
        OSError: it cannot be; what was there is there.
    """
    models_dir, name = target.parent, target.name
    if not os.path.lexists(target):
        new.replace(target)
        return
    old = new if exchange(new, target) else _in_two_steps(new, target)
    # From here on the new one is in place, whatever becomes of the old one.
    with contextlib.suppress(OSError):
        spare = previous(models_dir, name)
        if keep and old == spare:
            return
        # One is kept, and never one that is not the last: that would be a surprise to go back to.
        _throw(spare, models_dir)
        if keep:
            old.replace(spare)
        else:
            _throw(old, models_dir)


def heal(models_dir: Path) -> None:
    """Put back what a process that was killed between two renames had moved away."""
    for old in models_dir.glob(f"{WORKPLACE}*/replaced"):
        name = old.parent.name.removeprefix(WORKPLACE)
        with contextlib.suppress(OSError), _alone(models_dir, name) as is_alone:
            if is_alone and not os.path.lexists(models_dir / name):
                old.replace(models_dir / name)
            elif is_alone:
                shutil.rmtree(old, ignore_errors=True)


def give_room(models_dir: Path, needed: int, name: str) -> int:
    """Give up versions before, the oldest first, until so many bytes are free, if that helps.

    Args:
        models_dir: where they are.
        needed: bytes.
        name: of the model that the room is for; who asks holds its lock.

    Returns:
        The bytes that are free then.
    """
    kept = sorted(models_dir.glob(f"{PREFIX}*"), key=_age)
    if shutil.disk_usage(models_dir).free + sum(map(size_of, kept)) < needed:
        kept = []  # it would not be enough
    while (free := shutil.disk_usage(models_dir).free) < needed and kept:
        folder = kept.pop(0)
        whose = folder.name.removeprefix(PREFIX)
        with contextlib.suppress(OSError), _alone(models_dir, whose, whose == name) as is_alone:
            if is_alone:
                shutil.rmtree(folder, ignore_errors=True)
    return free


def empty_bins(models_dir: Path) -> None:
    """Delete for good what was taken away; also what a killed process left."""
    for waste in models_dir.glob(f"{BIN}*"):
        shutil.rmtree(waste, ignore_errors=True)


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_ctime  # when it got its name; its files are older
    except OSError:
        return 0.0


def _in_two_steps(new: Path, target: Path) -> Path:
    """Replace where two names cannot change places; for an instant there is no model."""
    folder = target.parent / f"{WORKPLACE}{target.name}"
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


def _throw(folder: Path, models_dir: Path) -> None:
    if os.path.lexists(folder):
        folder.replace(Path(tempfile.mkdtemp(prefix=BIN, dir=models_dir)) / folder.name)


@contextlib.contextmanager
def _alone(models_dir: Path, name: str, held: bool = False) -> Iterator[bool]:
    """Hold a model's lock, unless another process does."""
    if held:
        yield True
        return
    fd = os.open(Workplace(models_dir, name).lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)


def settle(models_dir: Path) -> None:
    """Have what `put` did reach the disk, and delete for good what it threw away."""
    sync(models_dir)
    empty_bins(models_dir)


def sync(folder: Path) -> None:
    """Have the names in a folder reach the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
