"""Slots, context length, KV cache and threads of llama.cpp on a machine.

Computed from a model, the settings and the machine; reads only the header of a draft model. The
measurements behind the rules are in docs/architecture.md.
"""

from __future__ import annotations

from typing import Any

from vllm_obtain.config.model_settings import ModelSettings
from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.engines import embedding_limits, model_options
from vllm_obtain.engines.adapter import Sizing
from vllm_obtain.errors import EngineFailed
from vllm_obtain.hardware.machine import Machine, device
from vllm_obtain.models import Model
from vllm_obtain.models.kind import MEAN
from vllm_obtain.models.scan import read_file

MAX_SLOTS = 64
DEFAULT_CONTEXT = 4096
# Part of the machine's memory for the KV cache; weights and everything else use the rest.
KV_MEMORY_FRACTION = 0.2
# HTTP threads beyond one per slot: health, metrics and rejected requests.
SPARE_HTTP_THREADS = 16
# Host memory for the KV cache of finished prompts. llama.cpp's default is 8 GiB.
PROMPT_CACHE_MIB = 256
# Tokens that a draft model proposes per step.
DRAFTED = 3
# Models of this family process an image in one step of this many tokens. With a smaller batch the
# engine aborts.
_WHOLE, _WHOLE_TOKENS = "gemma", 512
CACHE_TYPES = ("f16", "q8_0", "q4_0")


def size(model: Model, settings: Settings, machine: Machine) -> Sizing:
    """Size the engine.

    All slots share one KV cache (`kv_unified`), so a long request can use what short ones leave.
    The supervisor admits requests by tokens, so the cache cannot overflow.
    """
    if model.kind == "embedding":
        return _embedder(model, settings, machine)
    owner = settings.models.of(model.name)
    accelerated = device(settings.device_type) != "cpu"
    slots = min(settings.max_concurrent_requests, MAX_SLOTS)
    context = owner.context or model.context_length or DEFAULT_CONTEXT
    batch = 512 if accelerated else min(512, 64 * machine.cores_physical)
    if model.projector is not None and model.projector.kind.startswith(_WHOLE):
        batch = max(batch, _WHOLE_TOKENS)
    draft = _draft(owner, model)
    per_token = _per_token(model, model_options.value_bytes(owner), draft)
    pool = _pool_tokens(per_token, machine, slots, context)
    model_options.require_context(owner, model, pool)
    limits = EngineLimits(slots=slots, pool_tokens=pool, context=min(context, pool))
    parameters = _parameters(settings, machine, limits, batch)
    parameters["n_ctx"] += slots * _drafted(owner)
    parameters |= {
        # Without it, a slot has the context length that the model was trained for.
        "context": owner.context or 0,
        "cache_type": owner.kv_cache_type or "f16",
        "draft_model": str(owner.draft_model) if draft else None,
        "drafted": _drafted(owner),
        "lora": str(owner.lora) if owner.lora else None,
        "projector": str(model.projector.path) if model.projector else None,
    }
    return Sizing(limits, parameters)


def _embedder(model: Model, settings: Settings, machine: Machine) -> Sizing:
    """Size an engine with an embedding model: a batch holds one text of any length."""
    limits = embedding_limits.limits(model, settings)
    context = limits.context
    # Encoders have no KV cache, but embedding models based on language models do.
    per_token = model.header.kv_bytes_per_token() if model.header is not None else None
    affordable = int(machine.memory_bytes * KV_MEMORY_FRACTION / per_token) if per_token else 0
    texts = max(1, min(embedding_limits.MAX_TEXTS, affordable // context)) if affordable else 1
    # Without a pooling type in the file, use mean pooling, as sentence-transformers does.
    no_pooling = model.header is None or model.header.pooling is None
    embedding = {
        "n_parallel": texts,
        "n_ctx": texts * context,
        "embedding": True,
        "pooling": MEAN if no_pooling else None,
    }
    return Sizing(limits, _parameters(settings, machine, limits, context) | embedding)


def _parameters(
    settings: Settings, machine: Machine, limits: EngineLimits, batch: int
) -> dict[str, Any]:
    accelerated = device(settings.device_type) != "cpu"
    return {
        "n_parallel": limits.slots,
        # A step may need one batch beyond the admitted tokens; without it the last request that
        # fits by count would not fit in the cache.
        "n_ctx": limits.pool_tokens + batch,
        "n_batch": batch,
        "n_ubatch": batch,
        "n_threads_http": limits.slots + SPARE_HTTP_THREADS,
        "threads": max(1, machine.performance_cores - 1),
        "threads_batch": machine.performance_cores,
        "n_gpu_layers": -1 if accelerated else 0,
        # Another caller could find cached prompts there.
        "cache_ram_mib": PROMPT_CACHE_MIB if settings.shared_prefix_cache else 0,
    }


def _pool_tokens(per_token: int | None, machine: Machine, slots: int, context: int) -> int:
    wanted = max(4 * context, 1024 * slots)
    if per_token is None:
        return wanted
    affordable = int(machine.memory_bytes * KV_MEMORY_FRACTION / per_token)
    return max(1024, min(wanted, affordable))


def _per_token(model: Model, value: float, draft: Model | None) -> int | None:
    """Return the KV cache bytes per token, including those of the draft model."""
    if model.header is None:
        return None
    own = model.header.kv_bytes_per_token(value)
    drafting = draft.header.kv_bytes_per_token() if draft and draft.header else 0
    return None if own is None else own + (drafting or 0)


def _drafted(owner: ModelSettings) -> int:
    """Return the most drafted tokens of a request, which need space in the KV cache."""
    return owner.ngram or (DRAFTED if owner.draft_model else 0)


def _draft(owner: ModelSettings, model: Model) -> Model | None:
    """Read the draft model.

    Raises:
        EngineFailed: it cannot be read, or has another vocabulary.
    """
    if owner.draft_model is None:
        return None
    draft = read_file(owner.draft_model)
    why = draft.problem if draft else "it is not a GGUF file"
    if draft and draft.header and model.header and not why:
        ours, its = model.header.vocab_size, draft.header.vocab_size
        if ours != its:
            why = f"its vocabulary has {its} tokens, but that of '{model.name}' has {ours}"
    if why is None:
        return draft
    raise EngineFailed(
        f"'{model.name}' cannot be loaded: MODEL_SETTINGS sets draft_model = "
        f'"{owner.draft_model}": {why}.',
        status=503,
        code="model_load_failed",
        retry=False,
    )
