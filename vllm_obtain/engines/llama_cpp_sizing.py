"""How many slots, how much context and how many threads llama.cpp gets on a machine.

Pure: from a model, the settings and the machine to numbers. The figures behind the rules are in
docs/architecture.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm_obtain.catalogue import Model
from vllm_obtain.hardware import Machine, device
from vllm_obtain.messages import Limits
from vllm_obtain.settings import Settings

MAX_SLOTS = 64
DEFAULT_CONTEXT = 4096
# Of the machine's memory; the weights and everything else live in the rest.
KV_MEMORY_FRACTION = 0.2
# HTTP threads above one per slot: health, metrics, and requests that are being refused.
SPARE_HTTP_THREADS = 16
# The engine keeps finished prompts in host memory, 8 GiB of them unless it is told otherwise.
PROMPT_CACHE_MIB = 256


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
    accelerated = device(settings.device_type) != "cpu"
    slots = min(settings.max_concurrent_requests, MAX_SLOTS)
    context = model.context_length or DEFAULT_CONTEXT
    batch = 512 if accelerated else min(512, 64 * machine.cores_physical)
    pool = _pool_tokens(model, machine, slots, context)
    context = min(context, pool)
    parameters = {
        "n_parallel": slots,
        # A step may hold a batch beside what is admitted: without room for it the last request
        # that fits on paper would not fit in fact.
        "n_ctx": pool + batch,
        "n_batch": batch,
        "n_ubatch": batch,
        "n_threads_http": slots + SPARE_HTTP_THREADS,
        "threads": max(1, machine.performance_cores - 1),
        "threads_batch": machine.performance_cores,
        "n_gpu_layers": -1 if accelerated else 0,
        "cache_ram_mib": PROMPT_CACHE_MIB,
    }
    return Plan(parameters, Limits(slots=slots, pool_tokens=pool, context=context))


def _pool_tokens(model: Model, machine: Machine, slots: int, context: int) -> int:
    wanted = max(4 * context, 1024 * slots)
    per_token = model.header.kv_bytes_per_token() if model.header is not None else None
    if per_token is None:
        return wanted
    affordable = int(machine.memory_bytes * KV_MEMORY_FRACTION / per_token)
    return max(1024, min(wanted, affordable))
