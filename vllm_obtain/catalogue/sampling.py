"""How the makers of a model want it to draw tokens, as their files say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from vllm_obtain.catalogue.files import FileFacts, read_limited
from vllm_obtain.catalogue.gguf_cursor import GGUFError
from vllm_obtain.catalogue.gguf_layout import Layout
from vllm_obtain.log import get_logger
from vllm_obtain.model_settings import SamplingSettings

log = get_logger("vllm_obtain.models")

Pairs = tuple[tuple[str, float], ...]

GENERATION_CONFIG: Final = "generation_config.json"
_MOST_BYTES: Final = 1024 * 1024
_IN_GGUF: Final = {
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def of_gguf(layout: Layout) -> Pairs:
    """Read `general.sampling.*`; values that no request may have are left out, and logged."""
    found = {}
    for key, name in _IN_GGUF.items():
        try:
            value = layout.scalar(f"general.sampling.{key}")
        except GGUFError as error:
            log.warning("a GGUF file's sampling is not used", reason=str(error))
            continue
        if value is not None:
            # It has floats of 32 bits: 0.8 would be 0.800000011920929.
            found[name] = round(value, 6) if isinstance(value, float) else value
    return _usable(found)


def of_folder(files: Mapping[str, FileFacts]) -> Pairs:
    """Read generation_config.json, as `of_gguf` does. Its `max_new_tokens` has no say."""
    if GENERATION_CONFIG not in files:
        return ()
    try:
        found = json.loads(read_limited(files[GENERATION_CONFIG].path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        path = str(files[GENERATION_CONFIG].path)
        log.warning("a model's sampling cannot be read", file=path, reason=str(error))
        return ()
    names = _IN_GGUF.values()
    return _usable({n: found[n] for n in names if n in found} if isinstance(found, dict) else {})


def _usable(found: Mapping[str, Any]) -> Pairs:
    kept = []
    for name, value in found.items():
        if value is None:
            continue
        try:
            SamplingSettings.model_validate({name: value})
            kept.append((name, value))
        except ValidationError:
            log.warning("a model's sampling is not used", name=name, value=str(value)[:40])
    return tuple(kept)
