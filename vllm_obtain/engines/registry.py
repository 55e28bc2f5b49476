"""Which engines there are. An adapter is imported when it is asked for, never before."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.engines.base import Adapter
from vllm_obtain.errors import EngineFailed
from vllm_obtain.settings import Settings

BUILT_IN = {
    "llama_cpp": "vllm_obtain.engines.llama_cpp:LlamaCpp",
    "mlx": "vllm_obtain.engines.mlx_engine:Mlx",
    "vllm": "vllm_obtain.engines.vllm_engine:Vllm",
}


def adapter(name: str, settings: Settings) -> Adapter:
    """Make the adapter of an engine.

    Args:
        name: a key of BUILT_IN, or one that EXTRA_ENGINES adds.

    Raises:
        EngineFailed: there is no such engine, or its adapter cannot be imported.
    """
    known = {**BUILT_IN, **settings.engine_plugins}
    target = known.get(name)
    if target is None:
        raise _not_installed(
            f"The engine '{name}' is not part of this version. "
            f"Set INFERENCE_ENGINE=auto, or one of: {', '.join(known)}."
        )
    module, _, cls = target.partition(":")
    try:
        made = getattr(importlib.import_module(module), cls)(settings)
    except Exception as error:  # a plugin runs its own code here
        raise _not_installed(
            f"The engine '{name}' cannot be imported from '{target}': {error}."
        ) from error
    if not isinstance(made, Adapter):
        raise _not_installed(f"The engine '{name}': '{target}' is no Adapter; see engines/base.py.")
    return made


def candidates(settings: Settings) -> list[str]:
    """List the engines that may serve, the preferred one first."""
    if settings.inference_engine != "auto":
        return [settings.inference_engine]
    return list(BUILT_IN)


def choose(model: Model, settings: Settings) -> Adapter:
    """Find the engine for a model: the first candidate that is installed and can load it.

    Raises:
        EngineFailed: none can; the message says why for each.
    """
    reasons = []
    for name in candidates(settings):
        engine = adapter(name, settings)
        reason = engine.missing() or engine.refuses(model)
        if reason is None:
            return engine
        reasons.append(f"{name}: {reason}")
    raise EngineFailed(
        f"No engine here can load '{model.name}'. {' '.join(reasons)}",
        status=503,
        code="no_engine_for_model",
    )


def default_model(catalogue: Catalogue, settings: Settings) -> Model | None:
    """Find the model for requests that name none, and for the start.

    Returns:
        DEFAULT_MODEL; if that is empty, the first model that can be served here; if there is
        none, the first one at all, whose load will say what is wrong; None if there is nothing.

    Raises:
        ModelNotFound: DEFAULT_MODEL names no model.
    """
    if settings.default_model:
        return catalogue.find(settings.default_model)
    return (
        _first_servable(catalogue.known(), settings)
        or _first_servable(catalogue.models(), settings)
        or next(iter(catalogue.known()), None)
    )


def _first_servable(models: Iterable[Model], settings: Settings) -> Model | None:
    return next((model for model in models if why_not(model, settings) is None), None)


def why_not(model: Model, settings: Settings) -> str | None:
    """Say why a model cannot be served, or None when it can."""
    if model.problem:
        return model.problem
    try:
        choose(model, settings)
    except EngineFailed as error:
        return error.message
    return None


def _not_installed(message: str) -> EngineFailed:
    return EngineFailed(message, status=503, code="engine_not_installed")
