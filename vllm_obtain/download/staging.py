"""The staging folder of an unfinished download.

MODELS_DIR/.fetching-NAME/plan.json     the source, its revision, and the files
MODELS_DIR/.fetching-NAME/files/        complete and partial files; becomes MODELS_DIR/NAME
MODELS_DIR/.fetching-NAME.lock          locked by the process that downloads the model
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from vllm_obtain.download.file_selection import RepoFile
from vllm_obtain.download.model_ref import ModelRef
from vllm_obtain.fs import atomic_write, try_lock, try_locked

PREFIX: Final = ".fetching-"
_MAX_AGE_SECONDS: Final = 14 * 86_400
_POLL: Final = 0.25


class DownloadPlan(Struct, frozen=True):
    """The files to download for one model.

    Args:
        source: the source.
        revision: the revision of the source.
        form: the model format.
        pieces: the files.
    """

    source: ModelRef
    revision: str
    form: str
    pieces: list[RepoFile]

    @property
    def total(self) -> int:
        """Bytes of all files; files of unknown size count as 0."""
        return sum(piece.size or 0 for piece in self.pieces)


class StagingDir:
    """The staging folder of one model.

    Args:
        models_dir: MODELS_DIR.
        name: the model's name.
    """

    def __init__(self, models_dir: Path, name: str) -> None:
        self.folder = models_dir / f"{PREFIX}{name}"
        self.files = self.folder / "files"
        self.lock = models_dir / f"{PREFIX}{name}.lock"
        self._plan = self.folder / "plan.json"

    @property
    def plan(self) -> DownloadPlan | None:
        """The plan of the current download, None before `begin`."""
        try:
            return msgspec.json.decode(self._plan.read_bytes(), type=DownloadPlan)
        except (OSError, msgspec.MsgspecError):
            return None

    @property
    def done(self) -> int:
        """Bytes on disk, partial files included."""
        return size_of(self.files)

    def begin(self, plan: DownloadPlan) -> None:
        """Store the plan; files of another source or revision are deleted."""
        before = self.plan
        if before is None or (before.source, before.revision) != (plan.source, plan.revision):
            shutil.rmtree(self.files, ignore_errors=True)
        self.files.mkdir(parents=True, exist_ok=True)
        atomic_write(self._plan, msgspec.json.encode(plan), 0o644)

    def clear(self) -> None:
        """Delete the folder. The lock file stays: deleting it would let two processes lock."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of the model; the kernel releases it if the process is killed.

        Args:
            waiting: called repeatedly while another process holds the lock; may raise.
        """
        fd = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not try_lock(fd):
                waiting()
                time.sleep(_POLL)
            yield
        finally:
            os.close(fd)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; files that disappear meanwhile are ignored."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(path) / name).stat().st_size
    return total


def sweep(models_dir: Path, now: float | None = None) -> list[Path]:
    """Delete downloads that made no progress for two weeks.

    Returns:
        The deleted folders.
    """
    removed = []
    for folder in models_dir.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if not folder.is_dir() or (now or time.time()) - _newest(folder) < _MAX_AGE_SECONDS:
                continue
            with try_locked(Path(f"{folder}.lock")) as is_locked:
                if is_locked:
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(folder)
    return removed


def _newest(folder: Path) -> float:
    return max(each.stat().st_mtime for each in [folder, *folder.rglob("*")])
