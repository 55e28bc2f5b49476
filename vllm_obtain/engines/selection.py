"""Selects the engine for a model from the installed engines, its files and the settings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_obtain.config.settings import Settings
from vllm_obtain.engines import registry
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.engines.detection import detect
from vllm_obtain.errors import EngineFailed, InvalidRequest
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.models.convert import Target, plan

_FORMATS = {"gguf": "a GGUF file", "safetensors": "a safetensors folder"}
_TARGETS: dict[Target, str] = {
    "mlx": "an MLX folder",
    "hf": "a Hugging Face folder",
    "gguf": "a GGUF file",
}
_DEVICE_NAMES = {"mps": "On Apple silicon", "cuda": "With an NVIDIA GPU", "cpu": "Without a GPU"}
# Whether a file can be converted is read from its header, and again after this many seconds:
# it also depends on packages that may be installed in the meantime.
_PLAN_TTL = 60.0
_MOST_PLANS = 512

_plans: dict[tuple[Path, str, Target], tuple[float, str | None]] = {}


@dataclass(frozen=True)
class EngineChoice:
    """An engine that can serve a model.

    Args:
        adapter: the engine.
        model: the model on disk.
        conversion: the format to convert its files to before loading, or None.
        reason: why this engine was chosen, as one sentence.
    """

    adapter: Adapter
    model: Model
    conversion: Target | None
    reason: str


@dataclass(frozen=True)
class EngineRejection:
    """Why an engine cannot serve a model.

    Args:
        reason: one or two sentences.
        missing: whether the engine cannot run here, whatever the model.
    """

    reason: str
    missing: bool


def rank_engines(model: Model, settings: Settings) -> list[EngineChoice]:
    """List the engines that can serve a model here, the best first.

    Engines that load the files without conversion come first. A pin (MODEL_ENGINES) or
    INFERENCE_ENGINE leaves one engine.

    Raises:
        EngineFailed: no engine can serve it; the message has the reason for each.
    """
    found, refusals = explain_engines(model, settings)
    if not found:
        raise _no_engine_error(model, refusals)
    return found


def explain_engines(
    model: Model, settings: Settings
) -> tuple[list[EngineChoice], dict[str, EngineRejection]]:
    """Return the choices of `rank_engines`, and the reason against every other engine."""
    names, why = _allowed(model, settings)
    refusals: dict[str, EngineRejection] = {}
    choices = list(_choices(model, settings, names, why, refusals))
    return _prefer_vision(model, choices), refusals


def _prefer_vision(model: Model, choices: list[EngineChoice]) -> list[EngineChoice]:
    """Move engines that accept images to the front for a vision model; otherwise keep the order."""
    capable = [choice for choice in choices if choice.adapter.why_no_images(model) is None]
    if not capable or capable[0] is choices[0]:
        return choices
    before = choices[0].adapter.name
    reason = f"{capable[0].reason} It accepts images, which {before} does not."
    first = replace(capable[0], reason=reason)
    return [first, *capable[1:], *(choice for choice in choices if choice not in capable)]


def vision_engines(model: Model, settings: Settings) -> list[str]:
    """List the engines on this machine that accept images with a model, ignoring the settings."""
    names = [*registry.BUILT_IN, *settings.engine_plugins]
    choices = _choices(model, settings, names, "", {})
    return [
        choice.adapter.name for choice in choices if choice.adapter.why_no_images(model) is None
    ]


def only(model: Model, settings: Settings, engine: str) -> EngineChoice:
    """Return the choice of an engine that a request named.

    Raises:
        InvalidRequest: the engine is unknown.
        EngineFailed: it is not installed, or cannot serve the model.
    """
    known = [*registry.BUILT_IN, *settings.engine_plugins]
    if engine not in known:
        raise InvalidRequest(
            f"Unknown engine '{engine}'. Use one of: {', '.join(known)}.", param="engine"
        )
    refusals: dict[str, EngineRejection] = {}
    choices = _choices(model, settings, [engine], f"{engine} was requested", refusals)
    if (choice := next(choices, None)) is None:
        raise _no_engine_error(model, refusals)
    return choice


def pinned(model: str, settings: Settings) -> str | None:
    """Return the engine that the settings name for a model (case-insensitive), or None.

    MODEL_SETTINGS takes precedence over MODEL_ENGINES, its short form.
    """
    if (engine := settings.models.of(model).engine) is not None:
        return engine
    pins = settings.engine_pins
    folded = {name.casefold(): engine for name, engine in pins.items()}
    return pins.get(model) or folded.get(model.casefold())


def unused_pins(models: Iterable[Model], settings: Settings) -> list[str]:
    """List the names in MODEL_ENGINES that match no model on disk."""
    known = {model.name.casefold() for model in models}
    return [name for name in settings.engine_pins if name.casefold() not in known]


def unused_tables(catalogue: ModelCatalog, settings: Settings) -> list[str]:
    """List the tables of MODEL_SETTINGS that match no model on disk."""
    known = {model.name.casefold() for model in catalogue.known()}
    return [name for name in settings.models.tables if name.casefold() not in known]


def hidden_aliases(catalogue: ModelCatalog, settings: Settings) -> list[str]:
    """List the aliases that have no effect because a model on disk has that name."""
    known = {model.name.casefold() for model in catalogue.known()}
    return [alias for alias in settings.models.aliases if alias.casefold() in known]


def default_model(catalogue: ModelCatalog, settings: Settings) -> Model | None:
    """Return the model for requests that name none, and for preloading.

    Returns:
        DEFAULT_MODEL. If that is empty: the first model that MODEL_SETTINGS preloads, then the
        first model that can be served here, then the first model at all (loading it reports the
        problem). None if there are no models.

    Raises:
        ModelNotFound: DEFAULT_MODEL, or the model to preload, does not exist.
    """
    if name := settings.default_model or next(iter(settings.models.preloaded), ""):
        return catalogue.find(name)
    return (
        _first_servable(catalogue.known(), settings)
        or _first_servable(catalogue.models(), settings)
        or next(iter(catalogue.known()), None)
    )


def why_not_servable(model: Model, settings: Settings) -> str | None:
    """Return why a model cannot be served, or None if it can."""
    if model.problem:
        return model.problem
    names, why = _allowed(model, settings)
    refusals: dict[str, EngineRejection] = {}
    # Only the first is needed: further ones may require reading the model's file.
    if next(_choices(model, settings, names, why, refusals), None) is not None:
        return None
    return _no_engine_error(model, refusals).message


def probe_all(settings: Settings) -> None:
    """Detect every engine that may have to serve, before the first request needs it."""
    tables = {owner.engine for owner in settings.models.tables.values() if owner.engine is not None}
    detect.warm({*registry.candidates(settings), *settings.engine_pins.values(), *tables}, settings)


def _first_servable(models: Iterable[Model], settings: Settings) -> Model | None:
    # Embedding models come last: they cannot answer a chat.
    ordered = sorted(models, key=lambda model: model.kind == "embedding")
    return next((model for model in ordered if why_not_servable(model, settings) is None), None)


def _allowed(model: Model, settings: Settings) -> tuple[list[str], str]:
    """Return the engines that the settings allow for a model, and the start of a reason."""
    if (name := pinned(model.name, settings)) is not None:
        source = "MODEL_SETTINGS" if settings.models.of(model.name).engine else "MODEL_ENGINES"
        return [name], f"{source} names {name} for it"
    names = registry.candidates(settings)
    if settings.inference_engine != "auto":
        return names, f"INFERENCE_ENGINE={names[0]}"
    device = settings.device_type
    where = _DEVICE_NAMES[registry.order_by(settings)]
    prefix = where if device == "auto" else f"DEVICE_TYPE={device}:"
    return names, f"{prefix} the order is {', '.join(names)}"


def _choices(
    model: Model,
    settings: Settings,
    names: list[str],
    why: str,
    refusals: dict[str, EngineRejection],
) -> Iterator[EngineChoice]:
    """Yield the choices in order; put the reason against each other engine into `refusals`."""
    form, is_first, convertible = _FORMATS[model.format], True, []
    for name in names:
        try:
            adapter = registry.adapter(name, settings)
        except EngineFailed as error:
            refusals[name] = EngineRejection(error.message, missing=True)
            continue
        if (missing := adapter.why_unavailable()) is not None:
            refusals[name] = EngineRejection(missing, missing=True)
        elif (reason := adapter.unsupported_setting(model)) is not None:
            refusals[name] = EngineRejection(reason, missing=False)
        elif (reason := adapter.why_not_loadable(model)) is not None:
            refusals[name] = EngineRejection(reason, missing=False)
            convertible.append(adapter)
        else:
            loads = f"{name} is the first that loads" if is_first else f"{name} loads"
            loads = f"it loads {form} directly" if len(names) == 1 else f"{loads} {form} directly"
            yield EngineChoice(adapter, model, None, f"{why}; {loads}.")
            is_first = False
    yield from _conversions(model, convertible, f"{why}; ", refusals)


def _conversions(
    model: Model, adapters: list[Adapter], why: str, refusals: dict[str, EngineRejection]
) -> Iterator[EngineChoice]:
    for adapter in adapters:
        if (target := adapter.conversion_of(model)) is None:
            continue
        if (problem := _why_not_convertible(model, target)) is not None:
            reason = f"{refusals[adapter.name].reason} {problem}"
            refusals[adapter.name] = EngineRejection(reason, missing=False)
            continue
        loads = f"{adapter.name} loads it after conversion to {_TARGETS[target]}"
        yield EngineChoice(adapter, model, target, f"{why}{loads}.")


def _why_not_convertible(model: Model, target: Target) -> str | None:
    key, now = (model.path, model.revision, target), time.monotonic()
    at, problem = _plans.get(key, (0.0, None))
    if key not in _plans or now - at > _PLAN_TTL:
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        problem = plan(model, target).problem
        _plans[key] = now, problem
    return problem


def _no_engine_error(model: Model, refusals: dict[str, EngineRejection]) -> EngineFailed:
    reasons = " ".join(f"{name}: {refusal.reason}" for name, refusal in refusals.items())
    message = f"No engine on this machine can load '{model.name}'. {reasons}"
    if all(refusal.missing for refusal in refusals.values()):
        return EngineFailed(message, status=503, code="engine_not_installed")
    return EngineFailed(message, status=503, code="no_engine_for_model")
