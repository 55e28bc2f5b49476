"""How many requests, how much context and which arguments vLLM gets on a machine.

Pure: from a model, the settings and the machine to arguments, environment and limits. The
figures behind the rules are in docs/architecture.md.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from vllm_obtain.catalogue import Model
from vllm_obtain.engines import embedders, hf_config, honour
from vllm_obtain.hardware import Machine, device
from vllm_obtain.messages import Limits
from vllm_obtain.model_settings import ModelSettings
from vllm_obtain.settings import Settings

GIB = 2**30
DEFAULT_CONTEXT = 4096
MAX_SEQUENCES_CPU = 64
MAX_SEQUENCES_GPU = 256
# Of the machine's memory, without a GPU; the weights and everything else live in the rest.
CPU_KV_FRACTION = 0.2
# A step takes so many prompt tokens, and running streams wait for it.
CPU_STEP_TOKENS = 128
# An encoder takes texts whole, several in a step.
EMBEDDING_STEP_TOKENS = 4096
# One HTTP front is the limit of a big GPU past this many streams; each wants cores of its own.
STREAMS_PER_FRONT = 64
CORES_PER_FRONT = 4
MAX_FRONTS = 4
# What vLLM takes on a GPU beside weights and cache: activations, graphs, the CUDA context.
GPU_OVERHEAD = 3 * GIB
# What each front keeps of images it has prepared, in the host's memory; 4 unless it is told.
IMAGE_CACHE_GB = 0.5
# Tokens that a draft model guesses before the model looks at them.
DRAFTED = 4


@dataclass(frozen=True)
class Plan:
    """What vLLM is started with, and what that lets it hold."""

    arguments: list[str]
    env: dict[str, str]
    limits: Limits


def size(model: Model, settings: Settings, machine: Machine) -> Plan:
    """Size the engine.

    vLLM queues and preempts by itself when its cache is full, so a pool that is estimated a
    little too large costs time, never an answer.
    """
    on_gpu = device(settings.device_type, machine) == "cuda"
    if model.kind == "embedding":
        return _embedder(model, settings, on_gpu)
    most = MAX_SEQUENCES_GPU if on_gpu else MAX_SEQUENCES_CPU
    slots = min(settings.max_concurrent_requests, most)
    owner = settings.models.of(model.name)
    named = owner.context or settings.vllm_max_model_len
    context = named or model.context_length or DEFAULT_CONTEXT
    per_token = hf_config.read(model).kv_bytes_per_token
    if per_token and owner.kv_cache_type == "fp8":
        per_token = -(-per_token // 2)
    cache = _gpu_cache(model, settings, machine) if on_gpu else _cpu_cache(machine, per_token)
    pool = max(1024, cache // per_token) if per_token else max(4 * context, 1024 * slots)
    honour.require_context(owner, model, pool)
    context = min(context, pool)
    arguments = _common(slots, context) + _set_for_it(owner)
    arguments += _on_gpu(slots, settings, machine, cache) if on_gpu else _on_cpu(slots)
    env = {} if on_gpu else {"VLLM_CPU_KVCACHE_SPACE": str(max(1, cache // GIB))}
    arguments += _seeing(settings) if model.sees else []
    arguments += _parallel(settings)
    if settings.vllm_distributed_executor != "ray":
        # All of it is on this machine: what joins its processes need not follow the network.
        env["VLLM_HOST_IP"] = "127.0.0.1"
    arguments += shlex.split(settings.vllm_extra_args)
    return Plan(arguments, env, Limits(slots, pool, context))


def parallel(settings: Settings) -> int:
    """Over how many GPUs a model is spread."""
    return settings.vllm_tensor_parallel_size * settings.vllm_pipeline_parallel_size


def _set_for_it(owner: ModelSettings) -> list[str]:
    """What the owner set for this model, as vLLM says it."""
    found = []
    if owner.kv_cache_type == "fp8":
        found += ["--kv-cache-dtype", "fp8"]
    if owner.ngram:
        guess = {"method": "ngram", "num_speculative_tokens": owner.ngram, "prompt_lookup_max": 4}
        found += ["--speculative-config", json.dumps(guess)]
    if owner.draft_model:
        draft = {"model": str(owner.draft_model), "num_speculative_tokens": DRAFTED}
        found += ["--speculative-config", json.dumps(draft)]
    return found


def _seeing(settings: Settings) -> list[str]:
    """What a model that sees is started with: as many images as a request may have."""
    return [
        *("--limit-mm-per-prompt", json.dumps({"image": settings.image_max_count, "video": 0})),
        *("--mm-processor-cache-gb", str(IMAGE_CACHE_GB if settings.shared_prefix_cache else 0)),
    ]


def _embedder(model: Model, settings: Settings, on_gpu: bool) -> Plan:
    limits = embedders.limits(model, settings)
    step = str(max(EMBEDDING_STEP_TOKENS, limits.context))
    arguments = [
        *("--runner", "pooling"),
        *("--max-model-len", str(limits.context)),
        *("--max-num-seqs", str(embedders.MAX_TEXTS)),
        *("--max-num-batched-tokens", step),
        "--disable-uvicorn-access-log",
        "--no-enable-log-requests",
    ]
    if on_gpu:
        share = settings.vllm_gpu_memory_utilization / settings.max_concurrent_models
        arguments += ["--gpu-memory-utilization", f"{share:.3g}"]
    else:
        # Small models: their vectors need not be rounded to 16 bits.
        arguments += ["--enforce-eager", "--dtype", "float32"]
    if not settings.shared_prefix_cache:
        arguments.append("--no-enable-prefix-caching")
    env = {"VLLM_HOST_IP": "127.0.0.1"}
    if not on_gpu:
        env["VLLM_CPU_KVCACHE_SPACE"] = "1"
    return Plan(arguments + shlex.split(settings.vllm_extra_args), env, limits)


def _common(slots: int, context: int) -> list[str]:
    return [
        *("--max-model-len", str(context)),
        *("--max-num-seqs", str(slots)),
        "--enable-prefix-caching",
        "--enable-chunked-prefill",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        "--no-enable-log-requests",
        # Every sampling value is spelled out by us: the model's file has no say.
        *("--generation-config", "vllm"),
        # The one backend that speaks our grammars' language (see `chat/grammar.py`).
        *("--structured-outputs-config", '{"backend": "guidance"}'),
        # For conversations that are written already (see `vllm_engine.AS_IT_IS`).
        "--trust-request-chat-template",
    ]


def _on_cpu(slots: int) -> list[str]:
    step = str(max(CPU_STEP_TOKENS, slots))
    # Compiling takes minutes on a CPU and gains little.
    return ["--enforce-eager", "--dtype", "bfloat16", "--max-num-batched-tokens", step]


def _on_gpu(slots: int, settings: Settings, machine: Machine, cache: int) -> list[str]:
    share = settings.vllm_gpu_memory_utilization / settings.max_concurrent_models
    found = ["--gpu-memory-utilization", f"{share:.3g}"]
    spread = parallel(settings)
    if settings.max_concurrent_models > 1:
        # vLLM measures what is free while it starts, and a neighbour that loads or answers at
        # that moment spoils the measurement: so the size of the cache is said, not measured.
        found += ["--kv-cache-memory-bytes", str(cache // spread)]
    fronts = min(MAX_FRONTS, machine.cores_logical // CORES_PER_FRONT)
    if slots > STREAMS_PER_FRONT and fronts > 1:
        found += ["--api-server-count", str(fronts)]
    return found


def _parallel(settings: Settings) -> list[str]:
    tensor, pipeline = settings.vllm_tensor_parallel_size, settings.vllm_pipeline_parallel_size
    found = ["--tensor-parallel-size", str(tensor), "--pipeline-parallel-size", str(pipeline)]
    if tensor * pipeline > 1:
        found += ["--distributed-executor-backend", settings.vllm_distributed_executor]
    return found


def _cpu_cache(machine: Machine, per_token: int | None) -> int:
    """Bytes for the cache in whole GiB, as vLLM takes them; at least one."""
    affordable = int(machine.memory_bytes * CPU_KV_FRACTION)
    wanted = per_token * 1024 * MAX_SEQUENCES_CPU if per_token else 4 * GIB
    return max(1, -(-min(affordable, wanted) // GIB)) * GIB


def _gpu_cache(model: Model, settings: Settings, machine: Machine) -> int:
    """Bytes for the cache over all GPUs that a model is spread over."""
    spread = parallel(settings)
    memory = min(gpu.memory_bytes for gpu in machine.gpus) * spread
    share = settings.vllm_gpu_memory_utilization / settings.max_concurrent_models
    return max(GIB, int(memory * share) - model.size_bytes - GPU_OVERHEAD * spread)
