"""The catalog of models on this machine: scanned from disk, cached, rescanned when files change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vllm_obtain.config.model_settings import ModelTable
from vllm_obtain.errors import ModelNotFound
from vllm_obtain.models.lora import with_adapters
from vllm_obtain.models.model import Model
from vllm_obtain.models.naming import clean, closest, spellings
from vllm_obtain.models.scan import scan

INTERVAL: Final = 1.0  # minimum seconds between two scans
_MAX_NAME: Final = 200  # characters of an unknown name in an error message


class ModelCatalog:
    """The models below a folder. Thread-safe.

    Args:
        models_dir: the folder; it may be created later.
        clock: monotonic clock in seconds.
        table: MODEL_SETTINGS, with the aliases.
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
        # Held during a scan, never for a lookup, since a scan replaces the snapshot atomically.
        self._scanning = threading.Lock()
        self._scanned_at: float | None = None
        self._stamp = 0
        self._on_disk: list[Model] = []
        self._snapshot: tuple[Model, ...] = ()
        self._by_name: dict[str, Model] = {}
        self._folded: dict[str, Model] = {}

    def models(self) -> list[Model]:
        """All models, sorted by name. Rescans the disk, at most once per second.

        While another thread scans, the result of the previous scan is returned; only the first
        scan blocks.
        """
        self._refresh(wait=self._scanned_at is None)
        return list(self._snapshot)

    def find(self, name: str) -> Model:
        """Find a model; rescans the disk if the name is unknown or MODELS_DIR has changed.

        Args:
            name: the name or an alias; case matters only between names that differ in case alone.
                What clients of other services add to it is ignored (see `naming.spellings`). It
                is compared with the known names and never used as a path.

        Raises:
            ModelNotFound: there is no such model, also after a rescan.
        """
        model = self._look_up(name)
        # An update may have replaced the folder, with another chat template.
        if model is None or _mtime(self._models_dir) not in (0, self._stamp):
            self._refresh(wait=model is None)
            model = self._look_up(name)
        if model is None:
            known = [each.name for each in self._snapshot]
            raise ModelNotFound(name[:_MAX_NAME], known, closest(clean(name[:_MAX_NAME]), known))
        return model

    def known(self) -> tuple[Model, ...]:
        """The models of the last scan, without disk access."""
        return self._snapshot

    def aliases(self, model: Model) -> list[str]:
        """The aliases of a model, without those that are the name of another model."""
        return [a for a in self._table.of(model.name).aliases if a.casefold() not in self._folded]

    def _look_up(self, name: str) -> Model | None:
        if (exact := self._by_name.get(name)) is not None:
            return exact
        for spelling in spellings(clean(name)):
            model = self._find_by_name(spelling)
            if model is None and (target := self._table.meant(spelling)) != spelling:
                model = self._find_by_name(target)
            if model is not None:
                return model
        return None

    def _find_by_name(self, name: str) -> Model | None:
        if (exact := self._by_name.get(name)) is not None:
            return exact
        return self._folded.get(name.casefold())

    def _refresh(self, wait: bool) -> None:
        if not self._scanning.acquire(blocking=wait):
            return
        try:
            now = self._clock()
            due = self._scanned_at is None or now - self._scanned_at >= INTERVAL
            # A completed download changes the folder's mtime, so it is found without delay.
            stamp = _mtime(self._models_dir)
            if due or stamp != self._stamp:
                self._stamp = stamp
                self._on_disk = scan(self._models_dir, self._on_disk)
                self._snapshot = tuple(with_adapters(self._on_disk, self._table))
                self._by_name = {model.name: model for model in self._snapshot}
                # Of names that differ in case alone, the first.
                self._folded = {model.name.casefold(): model for model in self._snapshot[::-1]}
                self._scanned_at = self._clock()
        finally:
            self._scanning.release()


def _mtime(folder: Path) -> int:
    """The modification time of a folder in nanoseconds; 0 if it does not exist."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
