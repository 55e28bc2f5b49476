"""What holds for each model: the owner's settings of it, for the status page."""

from __future__ import annotations

from typing import Any

from vllm_obtain.api.answers import ModelSettingsStatus
from vllm_obtain.api.defaults import described
from vllm_obtain.api.services import Services
from vllm_obtain.catalogue import Model
from vllm_obtain.engines.choice import hidden_aliases, pinned, unused_tables


def effective(made: Services) -> ModelSettingsStatus:
    """Describe MODEL_SETTINGS: the file, what holds for each model, and what means nothing."""
    models = made.catalogue.known()
    return ModelSettingsStatus(
        file=str(made.settings.model_settings),
        found=bool(made.model_settings.text),
        models={model.name: _of(made, model) for model in models},
        unknown_models=unused_tables(made.catalogue, made.settings),
        hidden_aliases=hidden_aliases(made.catalogue, made.settings),
    )


def _of(made: Services, model: Model) -> dict[str, Any]:
    found = made.model_settings.of(model.name)
    return found.model_dump(mode="json") | {
        "aliases": made.catalogue.aliases(model),
        "sampling": described(model, found),
        "context": found.context or model.context_length,
        "engine": pinned(model.name, made.settings),
    }
