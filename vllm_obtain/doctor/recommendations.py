"""Recommended models and settings: the best of each kind that fits and is fast enough."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, get_args

from vllm_obtain.config.settings import Settings
from vllm_obtain.doctor.capacity import Capacity, capacity
from vllm_obtain.download import format_choice
from vllm_obtain.download.library import Format, Kind, LibraryEntry, ModelLibrary, ModelVariant
from vllm_obtain.engines.detection.verdict import EngineAvailability
from vllm_obtain.engines.llama_cpp.sizing import KV_MEMORY_FRACTION
from vllm_obtain.engines.mlx.sizing import PADDING
from vllm_obtain.engines.vllm.sizing import GPU_OVERHEAD
from vllm_obtain.hardware.machine import Machine

# Minimum useful context length in tokens, for chat and for coding tools.
_CONTEXT, _CODER_CONTEXT = 8192, 16_384
# KV cache bytes per token assumed for models without a value: the maximum of those with one.
_MAX_CACHE: Final = 320 * 1024
# Tokens per second: minimum to recommend a model; below the second, raise REQUEST_TIMEOUT.
_MIN_SPEED, _SLOW = 6, 15
# Share of the memory bandwidth that decoding reaches.
_EFFICIENCY: Final = 0.6
# A mixture-of-experts model of this share of the largest fitting model is preferred.
_NEARLY_AS_LARGE: Final = 0.85
_ACCELERATED: Final = {"mps": "metal", "cuda": "cuda", "cpu": "cpu"}
_LONG_TIMEOUT: Final = 900


@dataclass(frozen=True)
class ModelSuggestion:
    """A recommended model. The field names are those of `doctor --json`.

    Args:
        name: name for `pull`.
        kind: what the model is best at.
        about: one-line description.
        engine: engine to serve it with.
        ready: whether that engine is installed.
        format: model format to download.
        size_bytes: size of the download.
        memory_bytes: approximate memory with the minimum useful context length.
        context: context length that fits into memory, in tokens.
        here: whether the model is already on this machine.
        command: command that downloads it.
    """

    name: str
    kind: Kind
    about: str
    engine: str
    ready: bool
    format: Format
    size_bytes: int
    memory_bytes: int
    context: int
    here: bool
    command: str


@dataclass(frozen=True)
class SettingSuggestion:
    """A recommended setting: variable, value and reason."""

    name: str
    value: str
    why: str


@dataclass
class Recommendation:
    """Recommended models and settings. The field names are those of `doctor --json`.

    Args:
        level: hardware tier.
        memory_bytes: memory available to all models together.
        models: the best model of each kind; empty if none fits.
        settings: settings to change.
    """

    level: str
    memory_bytes: int
    models: list[ModelSuggestion] = field(default_factory=list)
    settings: list[SettingSuggestion] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    """An engine that uses the best device of this machine, and a model format that it loads."""

    engine: str
    format: Format
    ready: bool


def recommend(
    machine: Machine,
    settings: Settings,
    engines: Sequence[EngineAvailability],
    library: ModelLibrary,
    local: Iterable[str] = (),
) -> Recommendation:
    """Recommend models and settings.

    Args:
        machine: hardware of the machine.
        settings: current settings.
        engines: availability of the engines, the preferred one first.
        library: models that `pull` knows by name.
        local: names of the models on this machine.
    """
    limits = capacity(machine, settings)
    candidates = list(_candidates(engines, limits))
    local_names = {name.casefold() for name in local}
    result = Recommendation(limits.level, limits.memory)
    for kind in get_args(Kind):
        best = _best(kind, library, candidates, limits)
        if best is not None:
            is_local = best[0].casefold() in local_names
            result.models.append(_suggestion(*best, limits, settings, is_local))
    result.settings = list(_settings(result.models, library, settings, limits, machine))
    return result


def _candidates(engines: Sequence[EngineAvailability], limits: Capacity) -> Iterator[_Candidate]:
    """List the engines that use the best device, otherwise the first one that can be installed."""
    device = _ACCELERATED[limits.device]
    usable = [each for each in engines if each.reason is None and each.device == device]
    # With a GPU, an engine for it is recommended even if only a CPU engine is installed.
    installable = [each for each in engines if each.install and each.engine in format_choice.LOADS]
    for engine in usable or installable[:1]:
        for model_format in format_choice.LOADS.get(engine.engine, ()):
            yield _Candidate(engine.engine, model_format, bool(usable))


def _best(
    kind: Kind, library: ModelLibrary, candidates: Sequence[_Candidate], limits: Capacity
) -> tuple[str, LibraryEntry, _Candidate] | None:
    fitting = []
    for name, entry in library.models.items():
        if entry.kind != kind:
            continue
        candidate = next((each for each in candidates if _fits(entry, each, limits)), None)
        if candidate is not None:
            fitting.append((name, entry, candidate))
    if not fitting:
        return None
    largest = max(entry.parameters for _, entry, _ in fitting)
    near = [model for model in fitting if model[1].parameters >= largest * _NEARLY_AS_LARGE]
    sparse = [model for model in near if model[1].active]
    return max(sparse or near, key=lambda model: model[1].parameters)


def _fits(entry: LibraryEntry, candidate: _Candidate, limits: Capacity) -> bool:
    variant = entry.offers.get(candidate.format)
    if variant is None or not _supports(entry, candidate.engine):
        return False
    fast = entry.kind == "embedding" or _speed(entry, variant, limits) >= _MIN_SPEED
    return fast and _context(entry, variant, candidate.engine, limits) >= _min_context(entry)


def _supports(entry: LibraryEntry, engine: str) -> bool:
    """Whether an engine supports this kind of model, see docs/models.md."""
    if engine != "mlx":
        return True
    return entry.kind != "vision" and (entry.kind != "embedding" or entry.family == "bert")


def _min_context(entry: LibraryEntry) -> int:
    """Minimum useful context length for this kind of model."""
    return min(entry.context, _CODER_CONTEXT if entry.kind == "coder" else _CONTEXT)


def _weights(variant: ModelVariant, engine: str, limits: Capacity) -> int:
    if engine == "vllm" and limits.device == "cuda":
        return variant.size + GPU_OVERHEAD * limits.cards
    return variant.memory


def _cache(entry: LibraryEntry) -> int:
    return entry.cache or (0 if entry.family == "bert" else _MAX_CACHE)


def _context(entry: LibraryEntry, variant: ModelVariant, engine: str, limits: Capacity) -> int:
    """Context length that fits into memory, computed as the engines do."""
    left = limits.memory - _weights(variant, engine, limits)
    if left < 0:
        return 0
    if engine == "mlx":
        left = int(left / PADDING)
    if engine == "llama_cpp":
        left = min(left, int(limits.ram * KV_MEMORY_FRACTION))
    per_token = _cache(entry)
    return min(entry.context, left // per_token) if per_token else entry.context


def _speed(entry: LibraryEntry, variant: ModelVariant, limits: Capacity) -> float:
    """Approximate tokens per second of one stream. Each token reads all active weights."""
    read = variant.size * (entry.active or entry.parameters) / entry.parameters
    return _EFFICIENCY * limits.bandwidth * 1e9 / read


def _suggestion(
    name: str,
    entry: LibraryEntry,
    candidate: _Candidate,
    limits: Capacity,
    settings: Settings,
    is_local: bool,
) -> ModelSuggestion:
    variant = entry.offers[candidate.format]
    default_format = next(
        each for each in format_choice.choose_format(name, settings) if each in entry.offers
    )
    command = f"vllm-obtain pull {name}"
    if default_format != candidate.format:
        command += f" --format {candidate.format}"
    return ModelSuggestion(
        name=name,
        kind=entry.kind,
        about=entry.about,
        engine=candidate.engine,
        ready=candidate.ready,
        format=candidate.format,
        size_bytes=variant.size,
        memory_bytes=_weights(variant, candidate.engine, limits)
        + _min_context(entry) * _cache(entry),
        context=_context(entry, variant, candidate.engine, limits),
        here=is_local,
        command=command,
    )


def _settings(
    models: Sequence[ModelSuggestion],
    library: ModelLibrary,
    settings: Settings,
    limits: Capacity,
    machine: Machine,
) -> Iterator[SettingSuggestion]:
    generative = [each for each in models if each.kind != "embedding"]
    if not generative:
        return
    speeds = {
        model.name: _speed(entry := library.models[model.name], entry.offers[model.format], limits)
        for model in generative
    }
    if not settings.default_model:
        fast = (model.name for model in generative if speeds[model.name] >= _SLOW)
        default = next(fast, max(speeds, key=lambda name: speeds[name]))
        why = "loaded at startup and used for requests that name no model"
        yield SettingSuggestion("DEFAULT_MODEL", default, why)
    yield from _shared_memory(models, settings, limits)
    if limits.cards > 1 and settings.vllm_tensor_parallel_size == 1:
        why = "the recommended models are split over these GPUs"
        yield SettingSuggestion("VLLM_TENSOR_PARALLEL_SIZE", str(limits.cards), why)
    if limits.device == "cuda" and settings.workers == 1 and machine.cores_logical >= 8:
        yield SettingSuggestion(
            "WORKERS", "auto", "a single gateway process cannot keep up with a fast GPU"
        )
    if min(speeds.values()) < _SLOW and settings.request_timeout < _LONG_TIMEOUT:
        why = "long responses of the slowest recommended model exceed the default"
        yield SettingSuggestion("REQUEST_TIMEOUT", str(_LONG_TIMEOUT), why)


def _shared_memory(
    models: Sequence[ModelSuggestion], settings: Settings, limits: Capacity
) -> Iterator[SettingSuggestion]:
    """Suggest loading an embedding model together with a chat model if both fit."""
    # With vLLM each model gets an equal share of the GPU memory, too little for the larger one.
    if settings.max_concurrent_models > 1 or any(each.engine == "vllm" for each in models):
        return
    embedding = [each for each in models if each.kind == "embedding"]
    largest = max(each.memory_bytes for each in models if each.kind != "embedding")
    if embedding and largest + embedding[0].memory_bytes <= limits.memory:
        why = f"{embedding[0].name} and any of the other models fit into memory together"
        yield SettingSuggestion("MAX_CONCURRENT_MODELS", "2", why)
