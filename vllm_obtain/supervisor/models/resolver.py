"""Resolves names to models, and models to engines."""

from __future__ import annotations

from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.selection import EngineChoice, only, rank_engines
from vllm_obtain.errors import EngineFailed
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.supervisor.engine.states import OCCUPIES
from vllm_obtain.supervisor.models.model_entry import ModelEntry


class ModelResolver:
    """Resolves models and their engines, from the disk and from requested engines.

    Args:
        settings: the service's settings.
        catalogue: the models on disk.
    """

    def __init__(self, settings: Settings, catalogue: ModelCatalog) -> None:
        self._settings = settings
        self._catalogue = catalogue

    def find_cached(self, name: str) -> Model:
        """Find a model as of the last scan.

        Raises:
            ModelNotFound: the model does not exist.
        """
        return self._catalogue.find(name)

    def find(self, name: str) -> Model:
        """Scan the disk and find a model.

        Raises:
            ModelNotFound: the model does not exist.
            EngineFailed: its files are broken.
        """
        self._catalogue.models()
        model = self._catalogue.find(name)
        if model.problem:
            raise EngineFailed(
                f"'{model.name}' cannot be loaded: {model.problem}",
                status=503,
                code="model_broken",
                retry=False,
            )
        return model

    def ranked(self, model: Model, named: str | None) -> list[EngineChoice]:
        """List the engines for a model, the best one first.

        Args:
            model: the model.
            named: the requested engine, None for automatic selection.

        Raises:
            InvalidRequest, EngineFailed: as in `selection.rank_engines` and `selection.only`.
        """
        if named is not None:
            return [only(model, self._settings, named)]
        return rank_engines(model, self._settings)

    def choices(self, entry: ModelEntry) -> list[EngineChoice]:
        """List the engines for a model as it is on disk now."""
        model = self.find(entry.name)
        entry.note_revision(model.revision)
        return self.ranked(model, entry.named)

    def identity(self, name: str, entry: ModelEntry | None) -> tuple[str, str]:
        """Return the engine and revision that serve a model, or would serve it."""
        if entry is not None and entry.engine is not None and entry.engine.state in OCCUPIES:
            return entry.engine.adapter.name, entry.engine.model.revision
        model = self.find(name)
        choices = self.ranked(model, entry.named if entry else None)
        choice = entry.first(choices) if entry is not None else choices[0]
        return choice.adapter.name, model.revision
