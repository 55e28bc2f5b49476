"""Removal of models from disk. Only the supervisor knows whether a model is in use."""

from __future__ import annotations

import asyncio
from pathlib import Path

from vllm_obtain.control.messages import ModelRemoved, RemoveModel
from vllm_obtain.download.install import delete_trash
from vllm_obtain.download.remove import move_to_trash
from vllm_obtain.errors import ModelInUse
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models import ModelCatalog
from vllm_obtain.supervisor.handlers import Handlers
from vllm_obtain.supervisor.models.pool import Pool

log = get_logger("vllm_obtain.models")


class ModelRemoval:
    """Removes models that are not in use.

    Args:
        pool: the loaded models.
        catalogue: the models on disk.
        models_dir: MODELS_DIR.
    """

    def __init__(self, pool: Pool, catalogue: ModelCatalog, models_dir: Path) -> None:
        self._pool = pool
        self._catalogue = catalogue
        self._models_dir = models_dir
        self.handlers: Handlers = {RemoveModel: lambda message: self.remove(message.model)}

    async def remove(self, name: str) -> ModelRemoved:
        """Remove a model's files.

        Raises:
            ModelNotFound: the model does not exist.
            ModelInUse: the model is loaded or loading.
            NotRemovable: the files do not belong to this service.
        """
        # Scan first, since `find` does not check the disk for a known name.
        await asyncio.to_thread(self._catalogue.models)
        model = self._catalogue.find(name)
        # No await from here to the end of `move_to_trash`, so no load can start in between.
        if self._pool.is_in_use(model.path):
            raise ModelInUse(f"'{model.name}' is in use. Unload it first (POST /v1/models/unload).")
        others = [each for each in self._catalogue.known() if each.path != model.path]
        removed = move_to_trash(model, self._models_dir, others)
        log.info("model removed", model=model.name, paths=removed.paths, bytes=removed.size)
        await asyncio.to_thread(delete_trash, self._models_dir)
        return ModelRemoved(removed.paths, removed.size)
