"""Reads the sampling parameters that the authors of a model recommend in its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from vllm_obtain.config.model_settings import SamplingSettings
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models.gguf.layout import GGUFMetadata
from vllm_obtain.models.gguf.reader import GGUFError
from vllm_obtain.models.safe_open import FileFacts, read_limited

log = get_logger("vllm_obtain.models")

Pairs = tuple[tuple[str, float], ...]

GENERATION_CONFIG: Final = "generation_config.json"
_MAX_BYTES: Final = 1024 * 1024
_GGUF_NAMES: Final = {
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def of_gguf(layout: GGUFMetadata) -> Pairs:
    """Read `general.sampling.*`; values that are invalid in a request are logged and left out."""
    values = {}
    for key, name in _GGUF_NAMES.items():
        try:
            value = layout.scalar(f"general.sampling.{key}")
        except GGUFError as error:
            log.warning("model sampling default ignored", name=name, reason=str(error))
            continue
        if value is not None:
            # GGUF stores 32-bit floats, in which 0.8 is 0.800000011920929.
            values[name] = round(value, 6) if isinstance(value, float) else value
    return _valid(values)


def of_folder(files: Mapping[str, FileFacts]) -> Pairs:
    """Read generation_config.json, as `of_gguf` does; `max_new_tokens` is ignored."""
    if GENERATION_CONFIG not in files:
        return ()
    try:
        config = json.loads(read_limited(files[GENERATION_CONFIG].path, _MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        path = str(files[GENERATION_CONFIG].path)
        log.warning("model sampling defaults unreadable", file=path, reason=str(error))
        return ()
    names = _GGUF_NAMES.values()
    return _valid({n: config[n] for n in names if n in config} if isinstance(config, dict) else {})


def _valid(values: Mapping[str, Any]) -> Pairs:
    pairs = []
    for name, value in values.items():
        if value is None:
            continue
        try:
            SamplingSettings.model_validate({name: value})
            pairs.append((name, value))
        except ValidationError:
            log.warning("model sampling default ignored", name=name, value=str(value)[:40])
    return tuple(pairs)
