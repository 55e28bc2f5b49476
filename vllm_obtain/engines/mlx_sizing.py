"""How many slots, how much context and how much memory MLX gets on a machine.

Pure but for the model's config.json. What a cache really takes the server measures itself, and
refuses what cannot fit; the pool worked out here is what the supervisor admits by.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Any

from vllm_obtain.catalogue import Model
from vllm_obtain.engines import embedders, honour
from vllm_obtain.hardware import Machine, device
from vllm_obtain.messages import Limits
from vllm_obtain.settings import Settings

# One pass of the model serves all rows; more rows than this slow each of them noticeably.
MAX_SLOTS = 32
DEFAULT_CONTEXT = 4096
# A BLAS knows floats of 32 bits only, and on processors it is the fast way by far: weights become
# such floats on loading where they take no more than this part of the memory.
WIDE_FRACTION = 0.5
# Of what the weights leave; the rest is for activations (see the server's memory.py).
CACHE_FRACTION = 0.8
# Rows of different lengths share a rectangle, whose padding is memory too.
PADDING = 1.5
# Of the caches' memory: caches of past requests, which give way to running ones.
PREFIX_FRACTION = 0.25
# Tokens of prompts between two steps of running streams: a quarter of a second at most. On CUDA a
# pass costs the same for 100 tokens as for 1,000, since telling the device what to do is the work.
CHUNK = {"mps": 512, "cuda": 1024, "cpu": 64}
# Large pieces are computed some layers at a time: as much work for the device, shorter pauses.
PARTS = {"mps": 4, "cuda": 8, "cpu": 1}
# On CUDA a pass of a shape that was not there before takes 50 ms where others take 7, since
# cuDNN plans its attention for each: so there are few shapes.
PROMPT_STEP = {"mps": 1, "cuda": 64, "cpu": 1}


@dataclass(frozen=True)
class Plan:
    """What the server is started with, and what that lets it hold."""

    parameters: dict[str, Any]
    limits: Limits
    # What the weights take when they are made wider, None when they stay as they are.
    weights: int | None = None


def size(model: Model, settings: Settings, machine: Machine) -> Plan:
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
    honour.require_context(owner, model, pool)
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
    limits = Limits(slots=slots, pool_tokens=pool, context=context)
    return Plan(parameters, limits, wide if widen else None)


def _embedder(model: Model, settings: Settings, chosen: str) -> Plan:
    limits = embedders.limits(model, settings)
    parameters = {
        "kind": "embedding",
        "slots": limits.slots,
        "context": limits.context,
        "widen": chosen == "cpu",
        "device": "cpu" if chosen == "cpu" else "auto",
    }
    return Plan(parameters, limits)


def kv_bytes_per_token(config: dict[str, Any]) -> int | None:
    """Work out from config.json what a token takes in a cache of 16-bit floats (or its dtype's).

    Returns:
        Bytes, or None when the configuration does not say.
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
    """Work out from config.json what weights of `size` bytes take as floats of 32 bits."""
    quantised = config.get("quantization") or config.get("quantization_config")
    bits: float = 32 if config.get("torch_dtype") == "float32" else 16
    with contextlib.suppress(TypeError, KeyError, ZeroDivisionError):
        if quantised:
            # A scale and a bias of 16 bits come with each group.
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
