"""How many slots, how much context and how many threads llama.cpp gets on a machine.

From a model, the settings and the machine to numbers; reads nothing but the header of a model that
guesses ahead. The figures behind the rules are in docs/architecture.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm_obtain.catalogue import Model
from vllm_obtain.catalogue.kinds import MEAN
from vllm_obtain.catalogue.scan import read_file
from vllm_obtain.engines import embedders, honour
from vllm_obtain.errors import EngineFailed
from vllm_obtain.hardware import Machine, device
from vllm_obtain.messages import Limits
from vllm_obtain.model_settings import ModelSettings
from vllm_obtain.settings import Settings

MAX_SLOTS = 64
DEFAULT_CONTEXT = 4096
# Of the machine's memory; the weights and everything else live in the rest.
KV_MEMORY_FRACTION = 0.2
# HTTP threads above one per slot: health, metrics, and requests that are being refused.
SPARE_HTTP_THREADS = 16
# The engine keeps finished prompts in host memory, 8 GiB of them unless it is told otherwise.
PROMPT_CACHE_MIB = 256
# Tokens that a draft model guesses before the model looks at them.
DRAFTED = 3
# Models of this family read an image in one step, whatever that costs others: with less room the
# engine ends itself.
_WHOLE, _WHOLE_TOKENS = "gemma", 512
CACHE_TYPES = ("f16", "q8_0", "q4_0")


@dataclass(frozen=True)
class Plan:
    """What the engine is started with, and what that lets it hold."""

    parameters: dict[str, Any]
    limits: Limits


def size(model: Model, settings: Settings, machine: Machine) -> Plan:
    """Size the engine.

    One KV cache is shared by all slots (`kv_unified`), so that a long request can use what short
    ones leave; the supervisor admits requests by tokens, which keeps it from ever running out.
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
    per_token = _per_token(model, honour.value_bytes(owner), draft)
    pool = _pool_tokens(per_token, machine, slots, context)
    honour.require_context(owner, model, pool)
    limits = Limits(slots=slots, pool_tokens=pool, context=min(context, pool))
    wanted = _parameters(settings, machine, limits, batch)
    wanted["n_ctx"] += slots * _guessed(owner)
    wanted |= {
        # Without it a slot has what the model was trained for.
        "context": owner.context or 0,
        "cache_type": owner.kv_cache_type or "f16",
        "draft_model": str(owner.draft_model) if draft else None,
        "drafted": _guessed(owner),
        "lora": str(owner.lora) if owner.lora else None,
        "projector": str(model.projector.path) if model.projector else None,
    }
    return Plan(wanted, limits)


def _embedder(model: Model, settings: Settings, machine: Machine) -> Plan:
    """Size the engine of a model that reads texts whole: a step holds one of any length."""
    limits = embedders.limits(model, settings)
    context = limits.context
    # Encoders keep no cache, but language models that were made to embed do.
    per_token = model.header.kv_bytes_per_token() if model.header is not None else None
    affordable = int(machine.memory_bytes * KV_MEMORY_FRACTION / per_token) if per_token else 0
    texts = max(1, min(embedders.MAX_TEXTS, affordable // context)) if affordable else 1
    # What a file does not say of pooling is what sentence-transformers does without a word.
    silent = model.header is None or model.header.pooling is None
    embedding = {
        "n_parallel": texts,
        "n_ctx": texts * context,
        "embedding": True,
        "pooling": MEAN if silent else None,
    }
    return Plan(_parameters(settings, machine, limits, context) | embedding, limits)


def _parameters(settings: Settings, machine: Machine, limits: Limits, batch: int) -> dict[str, Any]:
    accelerated = device(settings.device_type) != "cpu"
    return {
        "n_parallel": limits.slots,
        # A step may hold a batch beside what is admitted: without room for it the last request
        # that fits on paper would not fit in fact.
        "n_ctx": limits.pool_tokens + batch,
        "n_batch": batch,
        "n_ubatch": batch,
        "n_threads_http": limits.slots + SPARE_HTTP_THREADS,
        "threads": max(1, machine.performance_cores - 1),
        "threads_batch": machine.performance_cores,
        "n_gpu_layers": -1 if accelerated else 0,
        # Whoever comes next may find there what another one asked.
        "cache_ram_mib": PROMPT_CACHE_MIB if settings.shared_prefix_cache else 0,
    }


def _pool_tokens(per_token: int | None, machine: Machine, slots: int, context: int) -> int:
    wanted = max(4 * context, 1024 * slots)
    if per_token is None:
        return wanted
    affordable = int(machine.memory_bytes * KV_MEMORY_FRACTION / per_token)
    return max(1024, min(wanted, affordable))


def _per_token(model: Model, value: float, draft: Model | None) -> int | None:
    """Bytes that a token takes in the cache, and in that of the model that guesses ahead."""
    if model.header is None:
        return None
    own = model.header.kv_bytes_per_token(value)
    guessing = draft.header.kv_bytes_per_token() if draft and draft.header else 0
    return None if own is None else own + (guessing or 0)


def _guessed(owner: ModelSettings) -> int:
    """Tokens of one request that are guessed ahead, at most; they need room in the cache."""
    return owner.ngram or (DRAFTED if owner.draft_model else 0)


def _draft(owner: ModelSettings, model: Model) -> Model | None:
    """Read the model that guesses ahead.

    Raises:
        EngineFailed: it cannot be read, or has another vocabulary.
    """
    if owner.draft_model is None:
        return None
    draft = read_file(owner.draft_model)
    why = draft.problem if draft else "it is no GGUF file"
    if draft and draft.header and model.header and not why:
        ours, its = model.header.vocab_size, draft.header.vocab_size
        if ours != its:
            why = f"its vocabulary has {its} tokens, and that of '{model.name}' {ours}"
    if why is None:
        return draft
    raise EngineFailed(
        f"'{model.name}' cannot be loaded: MODEL_SETTINGS sets draft_model = "
        f'"{owner.draft_model}" for it: {why}.',
        status=503,
        code="model_load_failed",
        retry=False,
    )
