"""Effective settings of each model, for the status route."""

from __future__ import annotations

from typing import Any

from vllm_obtain.config.model_settings import ModelSettings
from vllm_obtain.engines.selection import hidden_aliases, pinned, unused_tables
from vllm_obtain.gateway.admin.types import ModelSettingsStatus
from vllm_obtain.gateway.core.services import Services
from vllm_obtain.gateway.inference.model_lookup import sampling_defaults
from vllm_obtain.models import Model
from vllm_obtain.protocol.sampling_params import PENALTIES, SAMPLING, SamplingParams


def effective(services: Services) -> ModelSettingsStatus:
    """Describe MODEL_SETTINGS: the file, effective settings, and entries without effect."""
    models = services.catalogue.known()
    return ModelSettingsStatus(
        file=str(services.settings.model_settings),
        found=bool(services.model_settings.text),
        models={model.name: _of(services, model) for model in models},
        unknown_models=unused_tables(services.catalogue, services.settings),
        hidden_aliases=hidden_aliases(services.catalogue, services.settings),
    )


def _of(services: Services, model: Model) -> dict[str, Any]:
    settings = services.model_settings.of(model.name)
    return settings.model_dump(mode="json") | {
        "aliases": services.catalogue.aliases(model),
        "sampling": _sampling(model, settings),
        "context": settings.context or model.context_length,
        "engine": pinned(model.name, services.settings),
    }


def _sampling(model: Model, settings: ModelSettings) -> dict[str, Any]:
    """Return the effective parameters of a request that sets none."""
    params = SamplingParams.resolve({}, sampling_defaults(model, settings))
    return {
        name: getattr(params, name)
        for name in params.__struct_fields__
        if name in SAMPLING | PENALTIES | {"max_tokens"}
    }
