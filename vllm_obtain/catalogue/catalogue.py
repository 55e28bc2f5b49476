"""The models that can be asked for, kept in memory and looked up again when a name is missed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vllm_obtain.catalogue.adapters import with_adapters
from vllm_obtain.catalogue.model import Model
from vllm_obtain.catalogue.naming import clean
from vllm_obtain.catalogue.scan import scan
from vllm_obtain.errors import ModelNotFound
from vllm_obtain.model_settings import ModelTable

INTERVAL: Final = 1.0  # seconds between two scans, at least
_SHOWN_NAME: Final = 200  # characters of an unknown name that an error repeats


class Catalogue:
    """The models under a folder. Safe to use from many threads.

    Args:
        models_dir: the folder; it may be missing or appear later.
        clock: seconds of a clock that never goes back.
        table: what the owner set for single models; aliases come from there.
    """

    def __init__(
        self,
        models_dir: Path,
        clock: Callable[[], float] = time.monotonic,
        table: ModelTable | None = None,
    ) -> None:
        self._models_dir = models_dir
        self._clock = clock
        self._table = table or ModelTable()
        # Held during a scan, never for a look-up: the snapshot is replaced as a whole.
        self._scanning = threading.Lock()
        self._scanned_at: float | None = None
        self._stamp = 0
        self._on_disk: list[Model] = []
        self._snapshot: tuple[Model, ...] = ()

    def models(self) -> list[Model]:
        """All models by name. Scans again unless that happened within the last second.

        While another thread scans, the models of the scan before are returned at once; only the
        very first scan is waited for.
        """
        self._refresh(wait=self._scanned_at is None)
        return list(self._snapshot)

    def find(self, name: str) -> Model:
        """Look a model up; without reading the disk if it is known and nothing was fetched since.

        Args:
            name: its name or an alias; capitals matter only between names that differ by nothing
                else. It is compared with the known names, never used as a path.

        Raises:
            ModelNotFound: there is no such model, even after a new scan.
        """
        found = self._look_up(name)
        # A folder may have been replaced by a newer version, which talks in another way.
        if found is None or _changed(self._models_dir) not in (0, self._stamp):
            self._refresh(wait=found is None)
            found = self._look_up(name)
        if found is None:
            raise ModelNotFound(name[:_SHOWN_NAME], [model.name for model in self._snapshot])
        return found

    def known(self) -> tuple[Model, ...]:
        """The models of the last scan, without a look at the disk."""
        return self._snapshot

    def aliases(self, model: Model) -> list[str]:
        """The other names of a model; one that is also the name of a model means that one."""
        taken = {each.name.casefold() for each in self._snapshot}
        return [a for a in self._table.of(model.name).aliases if a.casefold() not in taken]

    def _look_up(self, name: str) -> Model | None:
        wanted = clean(name)
        found = self._named(wanted)
        if found is None and (meant := self._table.meant(wanted)) != wanted:
            found = self._named(meant)
        return found

    def _named(self, wanted: str) -> Model | None:
        snapshot = self._snapshot
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
            due = self._scanned_at is None or now - self._scanned_at >= INTERVAL
            # What has just been fetched got its name in there: asked for at once, it is found.
            stamp = _changed(self._models_dir)
            if due or stamp != self._stamp:
                self._stamp = stamp
                self._on_disk = scan(self._models_dir, self._on_disk)
                self._snapshot = tuple(with_adapters(self._on_disk, self._table))
                self._scanned_at = self._clock()
        finally:
            self._scanning.release()


def _changed(folder: Path) -> int:
    """When names in a folder last changed; 0 while it is not there."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
