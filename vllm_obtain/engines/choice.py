"""Which engine serves a model, and why: from what is installed, the files, and the settings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.catalogue.convert import Target, plan
from vllm_obtain.engines import detect, registry
from vllm_obtain.engines.base import Adapter
from vllm_obtain.errors import EngineFailed, InvalidRequest
from vllm_obtain.settings import Settings

_FORMATS = {"gguf": "a GGUF file", "safetensors": "a safetensors folder"}
_TARGETS: dict[Target, str] = {
    "mlx": "an MLX folder",
    "hf": "a Hugging Face folder",
    "gguf": "a GGUF file",
}
_PLACES = {"mps": "On Apple Silicon", "cuda": "With an NVIDIA GPU", "cpu": "Without a GPU"}
# Whether a file can be converted is read from its header; that is done again after so many
# seconds, since it also depends on packages that may be installed meanwhile.
_PLAN_LASTS = 60.0
_MOST_PLANS = 512

_plans: dict[tuple[Path, str, Target], tuple[float, str | None]] = {}


@dataclass(frozen=True)
class Choice:
    """An engine for a model.

    Args:
        adapter: the engine.
        model: what is on disk.
        conversion: what its files have to be made into first, or None.
        reason: why this engine, in one sentence.
    """

    adapter: Adapter
    model: Model
    conversion: Target | None
    reason: str


@dataclass(frozen=True)
class Refusal:
    """Why an engine does not serve a model.

    Args:
        reason: in one sentence or two.
        missing: whether that is because the engine cannot run here, whatever the model.
    """

    reason: str
    missing: bool


def ranked(model: Model, settings: Settings) -> list[Choice]:
    """List the engines that can serve a model here, the best first.

    Engines that load its files as they are come before those that need a conversion. A pin
    (MODEL_ENGINES) or INFERENCE_ENGINE leaves one.

    Raises:
        EngineFailed: there is none; the message says why for each.
    """
    found, refusals = examined(model, settings)
    if not found:
        raise _nobody(model, refusals)
    return found


def examined(model: Model, settings: Settings) -> tuple[list[Choice], dict[str, Refusal]]:
    """List the choices, as `ranked` does, and say of each other engine why not; never raises."""
    names, why = _allowed(model, settings)
    refusals: dict[str, Refusal] = {}
    found = list(_choices(model, settings, names, why, refusals))
    return _seeing_first(model, found), refusals


def _seeing_first(model: Model, found: list[Choice]) -> list[Choice]:
    """Put engines that can see first, for a model that can; else the order stays."""
    can = [choice for choice in found if choice.adapter.blind(model) is None]
    if not can or can[0] is found[0]:
        return found
    before = found[0].adapter.name
    first = replace(can[0], reason=f"{can[0].reason} It takes images, as {before} does not.")
    return [first, *can[1:], *(choice for choice in found if choice not in can)]


def seers(model: Model, settings: Settings) -> list[str]:
    """List the engines of this machine that take images with a model, whatever is set for it."""
    names = [*registry.BUILT_IN, *settings.engine_plugins]
    found = _choices(model, settings, names, "", {})
    return [choice.adapter.name for choice in found if choice.adapter.blind(model) is None]


def only(model: Model, settings: Settings, engine: str) -> Choice:
    """Make the choice that a caller made.

    Raises:
        InvalidRequest: there is no such engine.
        EngineFailed: it is not installed, or cannot serve the model.
    """
    known = [*registry.BUILT_IN, *settings.engine_plugins]
    if engine not in known:
        raise InvalidRequest(
            f"'{engine}' is no engine. Use one of: {', '.join(known)}.", param="engine"
        )
    refusals: dict[str, Refusal] = {}
    found = next(_choices(model, settings, [engine], f"{engine} was asked for", refusals), None)
    if found is None:
        raise _nobody(model, refusals)
    return found


def pinned(model: str, settings: Settings) -> str | None:
    """Name the engine that is named for a model, capitals or not; None if none.

    The file MODEL_SETTINGS wins over MODEL_ENGINES, which is its short form.
    """
    if (engine := settings.models.of(model).engine) is not None:
        return engine
    pins = settings.engine_pins
    folded = {name.casefold(): engine for name, engine in pins.items()}
    return pins.get(model) or folded.get(model.casefold())


def unused_pins(models: Iterable[Model], settings: Settings) -> list[str]:
    """List the names in MODEL_ENGINES that no model has, perhaps not yet."""
    known = {model.name.casefold() for model in models}
    return [name for name in settings.engine_pins if name.casefold() not in known]


def unused_tables(catalogue: Catalogue, settings: Settings) -> list[str]:
    """List the tables of MODEL_SETTINGS that name no model, perhaps not yet."""
    known = {model.name.casefold() for model in catalogue.known()}
    return [name for name in settings.models.tables if name.casefold() not in known]


def hidden_aliases(catalogue: Catalogue, settings: Settings) -> list[str]:
    """List the aliases that mean nothing, since a model on disk has that name."""
    known = {model.name.casefold() for model in catalogue.known()}
    return [alias for alias in settings.models.aliases if alias.casefold() in known]


def default_model(catalogue: Catalogue, settings: Settings) -> Model | None:
    """Find the model for requests that name none, and for the start.

    Returns:
        DEFAULT_MODEL; if that is empty, the first one that MODEL_SETTINGS loads at the start, or
        the first model that can be served here; if there is none, the first one at all, whose load
        will say what is wrong; None if there is nothing.

    Raises:
        ModelNotFound: DEFAULT_MODEL, or the model to load at the start, does not exist.
    """
    if name := settings.default_model or next(iter(settings.models.preloaded), ""):
        return catalogue.find(name)
    return (
        _first_servable(catalogue.known(), settings)
        or _first_servable(catalogue.models(), settings)
        or next(iter(catalogue.known()), None)
    )


def why_not(model: Model, settings: Settings) -> str | None:
    """Say why a model cannot be served, or None when it can."""
    if model.problem:
        return model.problem
    names, why = _allowed(model, settings)
    refusals: dict[str, Refusal] = {}
    # The first is enough: those after it may cost a look into the model's file.
    if next(_choices(model, settings, names, why, refusals), None) is not None:
        return None
    return _nobody(model, refusals).message


def warm(settings: Settings) -> None:
    """Find out about every engine that may have to serve, before the first request asks."""
    tables = {each.engine for each in settings.models.tables.values() if each.engine is not None}
    detect.warm({*registry.candidates(settings), *settings.engine_pins.values(), *tables}, settings)


def _first_servable(models: Iterable[Model], settings: Settings) -> Model | None:
    # A model that cannot talk is nobody's default, as long as there is another one.
    ordered = sorted(models, key=lambda model: model.kind == "embedding")
    return next((model for model in ordered if why_not(model, settings) is None), None)


def _allowed(model: Model, settings: Settings) -> tuple[list[str], str]:
    """The engines that the settings leave for a model, and how a reason for one begins."""
    if (name := pinned(model.name, settings)) is not None:
        source = "MODEL_SETTINGS" if settings.models.of(model.name).engine else "MODEL_ENGINES"
        return [name], f"{source} names {name} for it"
    names = registry.candidates(settings)
    if settings.inference_engine != "auto":
        return names, f"INFERENCE_ENGINE={names[0]}"
    device = settings.device_type
    place = _PLACES[registry.order_by(settings)] if device == "auto" else f"DEVICE_TYPE={device}:"
    return names, f"{place} the order is {', '.join(names)}"


def _choices(
    model: Model,
    settings: Settings,
    names: list[str],
    why: str,
    refusals: dict[str, Refusal],
) -> Iterator[Choice]:
    """Yield the choices as they are found; who was refused, and why, goes into `refusals`."""
    form, none_yet, fitting = _FORMATS[model.format], True, []
    for name in names:
        try:
            adapter = registry.adapter(name, settings)
        except EngineFailed as error:
            refusals[name] = Refusal(error.message, missing=True)
            continue
        if (missing := adapter.missing()) is not None:
            refusals[name] = Refusal(missing, missing=True)
        elif (reason := adapter.dishonours(model)) is not None:
            refusals[name] = Refusal(reason, missing=False)
        elif (reason := adapter.refuses(model)) is not None:
            refusals[name] = Refusal(reason, missing=False)
            fitting.append(adapter)
        else:
            loads = f"{name} is the first that loads" if none_yet else f"{name} loads"
            loads = f"it loads {form} as it is" if len(names) == 1 else f"{loads} {form} as it is"
            yield Choice(adapter, model, None, f"{why}; {loads}.")
            none_yet = False
    yield from _conversions(model, fitting, f"{why}; ", refusals)


def _conversions(
    model: Model, adapters: list[Adapter], why: str, refusals: dict[str, Refusal]
) -> Iterator[Choice]:
    for adapter in adapters:
        if (target := adapter.conversion_of(model)) is None:
            continue
        if (problem := _why_not_converted(model, target)) is not None:
            said = refusals[adapter.name].reason
            refusals[adapter.name] = Refusal(f"{said} {problem}", missing=False)
            continue
        made = f"{adapter.name} loads it once it is converted to {_TARGETS[target]}"
        yield Choice(adapter, model, target, f"{why}{made}.")


def _why_not_converted(model: Model, target: Target) -> str | None:
    key, now = (model.path, model.revision, target), time.monotonic()
    at, problem = _plans.get(key, (0.0, None))
    if key not in _plans or now - at > _PLAN_LASTS:
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        problem = plan(model, target).problem
        _plans[key] = now, problem
    return problem


def _nobody(model: Model, refusals: dict[str, Refusal]) -> EngineFailed:
    said = " ".join(f"{name}: {refusal.reason}" for name, refusal in refusals.items())
    message = f"No engine here can load '{model.name}'. {said}"
    if all(refusal.missing for refusal in refusals.values()):
        return EngineFailed(message, status=503, code="engine_not_installed")
    return EngineFailed(message, status=503, code="no_engine_for_model")
