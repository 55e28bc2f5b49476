"""Removing models: only the supervisor knows who uses them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from vllm_obtain.catalogue import Catalogue
from vllm_obtain.errors import ModelInUse
from vllm_obtain.fetching.placing import empty_bins
from vllm_obtain.fetching.removing import take_away
from vllm_obtain.log import get_logger
from vllm_obtain.messages import Removed
from vllm_obtain.supervisor.pool import Pool

log = get_logger("vllm_obtain.models")


class Removal:
    """Removes what nobody uses.

    Args:
        pool: who knows.
        catalogue: the models on disk.
        models_dir: where they are.
    """

    def __init__(self, pool: Pool, catalogue: Catalogue, models_dir: Path) -> None:
        self._pool = pool
        self._catalogue = catalogue
        self._models_dir = models_dir

    async def remove(self, name: str) -> Removed:
        """Remove a model's files.

        Raises:
            ModelNotFound: there is none of that name.
            ModelInUse: it is loaded, or on its way.
            NotRemovable: its files are not ours to remove.
        """
        # A name that is known is found without a look at the disk, whatever became of its files.
        await asyncio.to_thread(self._catalogue.models)
        model = self._catalogue.find(name)
        # From here to the end of `take_away` nothing else happens: no load can come between.
        if self._pool.uses(model.path):
            raise ModelInUse(f"'{model.name}' is loaded. Unload it first (POST /v1/models/unload).")
        others = [each for each in self._catalogue.known() if each.path != model.path]
        removed = take_away(model, self._models_dir, others)
        log.info("removed", model=model.name, paths=removed.paths, bytes=removed.size)
        await asyncio.to_thread(empty_bins, self._models_dir)
        return Removed(removed.paths, removed.size)
