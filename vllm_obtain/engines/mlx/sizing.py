"""Slots, context length and memory of MLX on a machine.

Pure except for reading the model's config.json. The server measures the actual size of a cache
and rejects what does not fit; the supervisor admits requests by the pool computed here.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.engines import embedding_limits, model_options
from vllm_obtain.engines.adapter import Sizing
from vllm_obtain.hardware.machine import Machine, device
from vllm_obtain.models import Model

# One forward pass serves all sequences; more than this slow each of them noticeably.
MAX_SLOTS = 32
DEFAULT_CONTEXT = 4096
# BLAS supports float32 only and is by far the fastest way on a CPU. Weights are converted to
# float32 on loading if they then take at most this part of the memory.
WIDE_FRACTION = 0.5
# Part of the memory beside the weights; the rest is for activations (see `memory_budget.py`).
CACHE_FRACTION = 0.8
# Sequences of different lengths are padded to one length, which takes memory too.
PADDING = 1.5
# Part of the cache memory for the prefix cache, which shrinks when running requests need it.
PREFIX_FRACTION = 0.25
# Prompt tokens between two decode steps of running streams: at most a quarter of a second. On CUDA
# 100 tokens take as long as 1,000, because launching kernels dominates.
CHUNK = {"mps": 512, "cuda": 1024, "cpu": 64}
# A prefill chunk is split by layers: the same work for the device with shorter pauses.
PARTS = {"mps": 4, "cuda": 8, "cpu": 1}
# On CUDA a pass of a new shape takes 50 ms instead of 7, because cuDNN plans its attention for
# each shape. So prompts are rounded to few shapes.
PROMPT_STEP = {"mps": 1, "cuda": 64, "cpu": 1}


def size(model: Model, settings: Settings, machine: Machine) -> Sizing:
    """Size the server."""
    chosen = device(settings.device_type)
    if model.kind == "embedding":
        return _embedder(model, settings, chosen)
    memory = int(_memory(machine, chosen) * settings.mlx_memory_fraction)
    config = _config(model)
    wide = wide_bytes(model.size_bytes, config)
    widen = chosen == "cpu" and machine.system == "Linux" and wide <= memory * WIDE_FRACTION
    caches = max(0, int((memory - (wide if widen else model.size_bytes)) * CACHE_FRACTION))
    slots = min(settings.max_concurrent_requests, MAX_SLOTS)
    owner = settings.models.of(model.name)
    context = owner.context or model.context_length or DEFAULT_CONTEXT
    pool = max(4 * context, 1024 * slots)
    if per_token := kv_bytes_per_token(config | ({"torch_dtype": "float32"} if widen else {})):
        pool = max(1024, min(pool, int(caches / per_token / PADDING)))
    model_options.require_context(owner, model, pool)
    context = min(context, pool)
    parameters = {
        "slots": slots,
        "context": context,
        "memory_bytes": memory,
        "prefill_chunk": CHUNK[chosen],
        "prefill_parts": PARTS[chosen],
        "prompt_step": PROMPT_STEP[chosen],
        "widen": widen,
        "prefix_cache_bytes": int(caches * PREFIX_FRACTION),
        "device": "cpu" if chosen == "cpu" else "auto",
    }
    limits = EngineLimits(slots=slots, pool_tokens=pool, context=context)
    return Sizing(limits, parameters, weights_bytes=wide if widen else None)


def _embedder(model: Model, settings: Settings, chosen: str) -> Sizing:
    limits = embedding_limits.limits(model, settings)
    parameters = {
        "kind": "embedding",
        "slots": limits.slots,
        "context": limits.context,
        "widen": chosen == "cpu",
        "device": "cpu" if chosen == "cpu" else "auto",
    }
    return Sizing(limits, parameters)


def kv_bytes_per_token(config: dict[str, Any]) -> int | None:
    """Return the KV cache bytes per token, from config.json: 16-bit floats or its dtype.

    Returns:
        Bytes, or None if the configuration does not say.
    """
    text = config.get("text_config")
    config = config | text if isinstance(text, dict) else config
    try:
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        head = config.get("head_dim") or config["hidden_size"] // heads
        width = 4 if config.get("torch_dtype") == "float32" else 2
        return int(config["num_hidden_layers"] * 2 * kv_heads * head * width)
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def wide_bytes(size: int, config: dict[str, Any]) -> int:
    """Return the bytes that weights of `size` bytes take as float32, from config.json."""
    quantised = config.get("quantization") or config.get("quantization_config")
    bits: float = 32 if config.get("torch_dtype") == "float32" else 16
    with contextlib.suppress(TypeError, KeyError, ZeroDivisionError):
        if quantised:
            # Each group has a 16-bit scale and a 16-bit bias.
            bits = quantised["bits"] + 32 / quantised.get("group_size", 64)
    return int(size * 32 / bits)


def _memory(machine: Machine, chosen: str) -> int:
    if chosen == "cuda" and machine.gpus:
        return machine.gpus[0].memory_bytes
    return machine.memory_bytes


def _config(model: Model) -> dict[str, Any]:
    try:
        config = json.loads((model.path / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
