"""Where a model is while it is not whole: a hidden folder, one lock, and what is being fetched.

MODELS_DIR/.fetching-NAME/plan.json     the source, its revision, and the files
MODELS_DIR/.fetching-NAME/files/        what has arrived; becomes MODELS_DIR/NAME at the end
MODELS_DIR/.fetching-NAME.lock          held by whoever fetches it
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from vllm_obtain.fetching.pieces import Piece
from vllm_obtain.fetching.source import Source

PREFIX: Final = ".fetching-"
_KEPT_SECONDS: Final = 14 * 86_400
_POLL: Final = 0.25


class Plan(Struct, frozen=True):
    """What is to be fetched.

    Args:
        source: who has it.
        revision: which state of it.
        form: the format.
        pieces: the files.
    """

    source: Source
    revision: str
    form: str
    pieces: list[Piece]

    @property
    def total(self) -> int:
        """Bytes of all files, as far as they are known."""
        return sum(piece.size or 0 for piece in self.pieces)


class Workplace:
    """The unfinished form of one model.

    Args:
        models_dir: where models are.
        name: the model's.
    """

    def __init__(self, models_dir: Path, name: str) -> None:
        self.folder = models_dir / f"{PREFIX}{name}"
        self.files = self.folder / "files"
        self.lock = models_dir / f"{PREFIX}{name}.lock"
        self._plan = self.folder / "plan.json"

    @property
    def plan(self) -> Plan | None:
        """What is being fetched, None when that is not known yet."""
        try:
            return msgspec.json.decode(self._plan.read_bytes(), type=Plan)
        except (OSError, msgspec.MsgspecError):
            return None

    @property
    def done(self) -> int:
        """Bytes that are here, unfinished files included."""
        return size_of(self.files)

    def begin(self, plan: Plan) -> None:
        """Note what is to be fetched; what is here of anything else is thrown away."""
        before = self.plan
        if before is None or (before.source, before.revision) != (plan.source, plan.revision):
            shutil.rmtree(self.files, ignore_errors=True)
        self.files.mkdir(parents=True, exist_ok=True)
        temporary = self._plan.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(plan))
        temporary.replace(self._plan)

    def clear(self) -> None:
        """Remove everything but the lock, whose removal would let two in."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def held(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Be the only one who fetches this model; the system lets go even of who is killed.

        Args:
            waiting: called again and again while another process is.
        """
        fd = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waiting()
                    time.sleep(_POLL)
            yield
        finally:
            os.close(fd)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; files that come and go meanwhile are no fault."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(path) / name).stat().st_size
    return total


def sweep(models_dir: Path, now: float | None = None) -> list[Path]:
    """Remove what was begun and not gone on with for two weeks.

    Returns:
        The folders that were removed.
    """
    removed = []
    for folder in models_dir.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if not folder.is_dir() or (now or time.time()) - _newest(folder) < _KEPT_SECONDS:
                continue
            fd = os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
            finally:
                os.close(fd)
    return removed


def _newest(folder: Path) -> float:
    return max(each.stat().st_mtime for each in [folder, *folder.rglob("*")])
