"""Finds the model of a request, checks its kind, and knows its sampling defaults."""

from __future__ import annotations

from typing import Any

from vllm_obtain.config.model_settings import ModelSettings
from vllm_obtain.engines.selection import default_model, why_not_servable
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.gateway.core.services import Services
from vllm_obtain.models import Model
from vllm_obtain.protocol.sampling_params import DEFAULTS, SAMPLING

WRONG_KIND = "unsupported_model"


def any_model(services: Services, name: str | None) -> Model:
    """Find the model that a request names, or the default model.

    Raises:
        ModelNotFound: there is no such model.
        InvalidRequest: the request names no model, and no default model exists.
    """
    model = (
        services.catalogue.find(name)
        if name
        else default_model(services.catalogue, services.settings)
    )
    if model is None:
        raise _missing_model("there is no default model")
    return model


def chat_model(services: Services, name: str | None) -> Model:
    """Find the model for a chat or a completion.

    Raises:
        ModelNotFound, InvalidRequest: as `any_model`; or it is an embedding model.
    """
    model = any_model(services, name)
    if model.kind == "embedding":
        raise InvalidRequest(
            f"'{model.name}' is an embedding model and does not generate text. Use "
            "/v1/embeddings, or name another model.",
            param="model",
            code=WRONG_KIND,
        )
    return model


def sampling_defaults(model: Model, model_settings: ModelSettings) -> dict[str, Any]:
    """Return the parameters of requests that set none; settings take precedence over files.

    Args:
        model: the model.
        model_settings: the settings of the model.
    """
    values = {**dict(model.sampling), **model_settings.sampling.values}
    if model_settings.is_speculative and SAMPLING.isdisjoint(values):
        # vLLM rejects min_p with speculative decoding.
        values |= {**DEFAULTS, "min_p": 0.0}
    return values


def embedding_model(services: Services, name: str | None) -> Model:
    """Find the embedding model; the first usable one if the request names none.

    Raises:
        ModelNotFound, InvalidRequest: as `any_model`; or it is no embedding model.
    """
    if not name:
        return _first_embedding_model(services)
    model = services.catalogue.find(name)
    if model.kind != "embedding":
        raise InvalidRequest(
            f"'{model.name}' is not an embedding model. {_embedding_models(services)}",
            param="model",
            code=WRONG_KIND,
        )
    return model


def _first_embedding_model(services: Services) -> Model:
    models = [model for model in services.catalogue.models() if model.kind == "embedding"]
    usable = (model for model in models if why_not_servable(model, services.settings) is None)
    model = next(usable, None) or next(iter(models), None)
    if model is None:
        raise _missing_model(_embedding_models(services))
    return model


def _embedding_models(services: Services) -> str:
    names = [model.name for model in services.catalogue.known() if model.kind == "embedding"]
    if not names:
        return "MODELS_DIR has no embedding model. Download one."
    return f"Available embedding models: {', '.join(names)}."


def _missing_model(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: 'model', and {why.rstrip('.')}.",
        param="model",
        code="missing_required_parameter",
    )
