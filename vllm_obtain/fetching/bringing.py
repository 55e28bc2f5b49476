"""Brings the files of a plan, one after the other, however often it is cut off, and checks each."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vllm_obtain.errors import FetchFailed, InsufficientStorage
from vllm_obtain.fetching import manifest as manifests
from vllm_obtain.fetching.hub import Hub, Interrupted
from vllm_obtain.fetching.manifest import Kept
from vllm_obtain.fetching.pieces import Piece
from vllm_obtain.fetching.placing import give_room
from vllm_obtain.fetching.progress import Pace, Progress, Say, Stage
from vllm_obtain.fetching.workplace import Plan, Workplace

# Attempts that brought nothing, in a row; those that brought something do not count.
_TRIES: Final = 8
# Seconds before the first of them, doubled each time, and at most.
_PAUSE, _LONGEST_PAUSE = 0.25, 15.0
# How often a file is fetched that is not what the hub says it is.
_CORRUPT: Final = 3
_TELL: Final = 0.25
# What stays free on the disk: logs and others need some too.
_SPARE: Final = 64 * 1024 * 1024


class Bringing:
    """The files of one model on their way.

    Args:
        hub: who has them.
        plan: which ones.
        place: where they go.
        name: the model's.
        say: told how far it is.
    """

    def __init__(self, hub: Hub, plan: Plan, place: Workplace, name: str, say: Say) -> None:
        self._hub, self._plan, self._place = hub, plan, place
        self._name, self._say = name, say
        self._stage: Stage = "downloading"
        self._detail = ""
        self._pace = Pace()

    def all(self) -> list[Kept]:
        """Bring all of them.

        Returns:
            The files with their checksums.

        Raises:
            InsufficientStorage: there is no room; nothing was fetched.
            FetchFailed: one does not come, or not as it should be.
        """
        self._require_room()
        with self._telling():
            return [self._obtain(piece) for piece in self._plan.pieces]

    def _require_room(self) -> None:
        here = self._place.done
        needed = self._plan.total - min(here, self._plan.total)
        # Versions that an update has kept give way to whatever needs the room.
        free = give_room(self._place.folder.parent, needed + _SPARE, self._name)
        if needed + _SPARE > free:
            raise InsufficientStorage(
                f"'{self._name}' takes {_gb(self._plan.total)}, of which {_gb(needed)} are to "
                f"come, and {self._place.folder.parent} has {_gb(free)} free: make room for "
                f"{_gb(needed + _SPARE - free)} more, or set MODELS_DIR to another disk.",
                retry=False,
            )

    def _obtain(self, piece: Piece) -> Kept:
        target = self._place.files / piece.path
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_CORRUPT):
            if not target.is_file():
                self._bring(piece, target)
            self._stage, self._detail = "checking", piece.path
            fault, kept = _check(piece, target)
            if not fault:
                self._stage = "downloading"
                return kept
            target.unlink()
            self._detail = f"{piece.path} {fault}; it is fetched again"
            self._tell()
        raise FetchFailed(
            f"{piece.path} of {self._plan.source} arrived {_CORRUPT} times and {fault}: something "
            "on the way changes it, such as a proxy. Try another source (MODEL_SOURCE).",
        )

    def _bring(self, piece: Piece, target: Path) -> None:
        self._stage, self._detail = "downloading", piece.path
        failures = 0
        while True:
            had = self._place.done
            try:
                self._hub.get(piece, target)
                return
            except Interrupted as error:
                failures = 0 if self._place.done > had else failures + 1
                if failures >= _TRIES:
                    raise FetchFailed(
                        f"{piece.path} of {self._plan.source} does not come ({error}), "
                        f"{failures} times in a row. What has arrived is kept: ask again later.",
                        retry_after=60,
                    ) from error
                self._detail = f"{piece.path}: {error}; going on"
                time.sleep(min(_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE) if failures else 0.05)

    def _tell(self) -> None:
        total = self._plan.total
        done = min(self._place.done, total) if total else self._place.done
        rate, left = self._pace.at(done, total)
        source = str(self._plan.source)
        self._say(Progress(self._stage, self._name, source, done, total, rate, left, self._detail))

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Say how far it is, now and then, by what is on the disk: whoever writes it there."""
        over = threading.Event()

        def tell() -> None:
            while not over.wait(_TELL):
                self._tell()

        teller = threading.Thread(target=tell, daemon=True)
        self._tell()
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()
        self._tell()


def _check(piece: Piece, target: Path) -> tuple[str, Kept]:
    """Say what is wrong with a file, if something is, and what it is."""
    size, digest = target.stat().st_size, manifests.digest(target)
    kept = Kept(piece.path, size, digest, piece.blob)
    if piece.size is not None and size != piece.size:
        return f"had {size:,} bytes and not {piece.size:,}", kept
    if piece.sha256 and digest != piece.sha256:
        return "had another checksum than the hub says", kept
    if piece.blob and manifests.blob(target) != piece.blob:
        return "had another checksum than the hub says", kept
    return "", kept


def _gb(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
