"""The models that can be asked for, kept in memory and looked up again when a name is missed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vllm_obtain.catalogue.model import Model
from vllm_obtain.catalogue.naming import clean
from vllm_obtain.catalogue.scan import scan
from vllm_obtain.errors import ModelNotFound

INTERVAL: Final = 1.0  # seconds between two scans, at least
_SHOWN_NAME: Final = 200  # characters of an unknown name that an error repeats


class Catalogue:
    """The models under a folder. Safe to use from many threads.

    Args:
        models_dir: the folder; it may be missing or appear later.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, models_dir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._models_dir = models_dir
        self._clock = clock
        # Held during a scan, never for a look-up: the snapshot is replaced as a whole.
        self._scanning = threading.Lock()
        self._scanned_at: float | None = None
        self._snapshot: tuple[Model, ...] = ()

    def models(self) -> list[Model]:
        """All models by name. Scans again unless that happened within the last second.

        While another thread scans, the models of the scan before are returned at once; only the
        very first scan is waited for.
        """
        self._refresh(wait=self._scanned_at is None)
        return list(self._snapshot)

    def find(self, name: str) -> Model:
        """Look a model up; without touching the disk if it is known.

        Args:
            name: its name; capitals matter only between names that differ by nothing else. It is
                compared with the known names, never used as a path.

        Raises:
            ModelNotFound: there is no such model, even after a new scan.
        """
        found = self._look_up(name)
        if found is None:
            self._refresh(wait=True)
            found = self._look_up(name)
        if found is None:
            raise ModelNotFound(name[:_SHOWN_NAME], [model.name for model in self._snapshot])
        return found

    def known(self) -> tuple[Model, ...]:
        """The models of the last scan, without a look at the disk."""
        return self._snapshot

    def _look_up(self, name: str) -> Model | None:
        wanted, snapshot = clean(name), self._snapshot
        for model in snapshot:
            if model.name == wanted:
                return model
        folded = wanted.casefold()
        return next((model for model in snapshot if model.name.casefold() == folded), None)

    def _refresh(self, wait: bool) -> None:
        if not self._scanning.acquire(blocking=wait):
            return
        try:
            now = self._clock()
            if self._scanned_at is None or now - self._scanned_at >= INTERVAL:
                self._snapshot = tuple(scan(self._models_dir, self._snapshot))
                self._scanned_at = self._clock()
        finally:
            self._scanning.release()
