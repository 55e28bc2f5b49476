"""What a Hugging Face folder says that an engine must know before it starts. Never raises."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_obtain.catalogue import Model

CONFIG = "config.json"
# Weights are 16-bit in the cache, whatever they are on disk.
_CACHE_BYTES = 2


@dataclass(frozen=True, slots=True)
class HFConfig:
    """Facts of a `config.json`.

    Args:
        kv_bytes_per_token: what the cache takes per token, or None if the file does not say.
        mlx_quantised: whether the weights are in MLX's own packed form.
        vocabulary: how many tokens there are, or None if the file does not say.
    """

    kv_bytes_per_token: int | None = None
    mlx_quantised: bool = False
    vocabulary: int | None = None


def read(model: Model) -> HFConfig:
    """Read a folder's configuration; once per revision of its files."""
    return _read(model.path, model.revision)


@functools.lru_cache(maxsize=256)
def _read(folder: Path, revision: str) -> HFConfig:  # noqa: ARG001 - a changed folder is read again
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
    """Whether mlx-lm wrote the weights: it names bits and group size, and no method."""
    found = [config.get("quantization"), config.get("quantization_config")]
    sections = [section for section in found if isinstance(section, dict)]
    if any(section.get("quant_method") for section in sections):
        return False
    return any({"bits", "group_size"} <= section.keys() for section in sections)


def _kv_bytes_per_token(config: dict[str, Any]) -> int | None:
    layers = _number(config, "num_hidden_layers", "n_layer")
    if layers and (rank := _number(config, "kv_lora_rank")):
        # DeepSeek's attention keeps one compressed vector for keys and values together.
        return layers * (rank + _number(config, "qk_rope_head_dim")) * _CACHE_BYTES
    heads = _number(config, "num_attention_heads", "n_head")
    kv_heads = _number(config, "num_key_value_heads") or heads
    width = _number(config, "hidden_size", "n_embd")
    head_width = _number(config, "head_dim") or (width // heads if heads else 0)
    return 2 * layers * kv_heads * head_width * _CACHE_BYTES or None


def _number(config: dict[str, Any], *names: str) -> int:
    """The first of these that is a positive whole number, or 0."""
    found = (config.get(name) for name in names)
    return next((n for n in found if isinstance(n, int) and n > 0), 0)
