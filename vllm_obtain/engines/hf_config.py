"""Facts from the config.json of a Hugging Face folder. Never raises."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_obtain.models import Model

CONFIG = "config.json"
# The KV cache has 16-bit values, whatever the weights have.
_CACHE_BYTES = 2


@dataclass(frozen=True, slots=True)
class HFConfig:
    """Facts from a `config.json`.

    Args:
        kv_bytes_per_token: bytes per token in the KV cache, or None if the file does not say.
        mlx_quantised: whether the weights are in MLX's quantized format.
        vocabulary: size in tokens, or None if the file does not say.
    """

    kv_bytes_per_token: int | None = None
    mlx_quantised: bool = False
    vocabulary: int | None = None


def read(model: Model) -> HFConfig:
    """Read a folder's configuration, once per revision of its files."""
    return _read(model.path, model.revision)


@functools.lru_cache(maxsize=256)
def _read(folder: Path, revision: str) -> HFConfig:  # noqa: ARG001 - part of the cache key
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return HFConfig()
    if not isinstance(config, dict):
        return HFConfig()
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    vocabulary = _number(text, "vocab_size") or None
    return HFConfig(_kv_bytes_per_token(text), _mlx_quantised(config), vocabulary)


def _mlx_quantised(config: dict[str, Any]) -> bool:
    """Whether mlx-lm wrote the weights: it stores bits and group size, but no quant_method."""
    entries = [config.get("quantization"), config.get("quantization_config")]
    sections = [section for section in entries if isinstance(section, dict)]
    if any(section.get("quant_method") for section in sections):
        return False
    return any({"bits", "group_size"} <= section.keys() for section in sections)


def _kv_bytes_per_token(config: dict[str, Any]) -> int | None:
    layers = _number(config, "num_hidden_layers", "n_layer")
    if layers and (rank := _number(config, "kv_lora_rank")):
        # DeepSeek's attention (MLA) caches one compressed vector for keys and values.
        return layers * (rank + _number(config, "qk_rope_head_dim")) * _CACHE_BYTES
    heads = _number(config, "num_attention_heads", "n_head")
    kv_heads = _number(config, "num_key_value_heads") or heads
    width = _number(config, "hidden_size", "n_embd")
    head_width = _number(config, "head_dim") or (width // heads if heads else 0)
    return 2 * layers * kv_heads * head_width * _CACHE_BYTES or None


def _number(config: dict[str, Any], *names: str) -> int:
    """Return the first of these values that is a positive integer, or 0."""
    values = (config.get(name) for name in names)
    return next((n for n in values if isinstance(n, int) and n > 0), 0)
