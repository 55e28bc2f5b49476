"""Sequences, context length and arguments of vLLM on a machine.

Pure: from a model, the settings and the machine to arguments, environment and limits. The
measurements behind the rules are in docs/architecture.md.
"""

from __future__ import annotations

import json
import shlex

from vllm_obtain.config.model_settings import ModelSettings
from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.engines import embedding_limits, hf_config, model_options
from vllm_obtain.engines.adapter import Sizing
from vllm_obtain.hardware.machine import Machine, device
from vllm_obtain.models import Model

GIB = 2**30
DEFAULT_CONTEXT = 4096
# A chat template for a prompt that is already rendered.
AS_IT_IS = "{{ messages[0]['content'] }}"
MAX_SEQUENCES_CPU = 64
MAX_SEQUENCES_GPU = 256
# Part of the machine's memory for the KV cache without a GPU; everything else uses the rest.
CPU_KV_FRACTION = 0.2
# Prompt tokens per step; running streams wait for a step.
CPU_STEP_TOKENS = 128
# Encoders process whole texts, several per step.
EMBEDDING_STEP_TOKENS = 4096
# Beyond this many streams one API server limits a large GPU; each needs CPU cores.
STREAMS_PER_FRONT = 64
CORES_PER_FRONT = 4
MAX_FRONTS = 4
# GPU memory beside weights and KV cache: activations, CUDA graphs, the CUDA context.
GPU_OVERHEAD = 3 * GIB
# Host memory of each API server for preprocessed images. vLLM's default is 4.
IMAGE_CACHE_GB = 0.5
# Tokens that a draft model proposes per step.
DRAFTED = 4


def size(model: Model, settings: Settings, machine: Machine) -> Sizing:
    """Size the engine.

    vLLM queues and preempts requests when its KV cache is full, so an estimate that is a little
    too large costs time, but fails no request.
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
    model_options.require_context(owner, model, pool)
    context = min(context, pool)
    arguments = _common(slots, context) + _model_arguments(owner)
    arguments += _on_gpu(slots, settings, machine, cache) if on_gpu else _on_cpu(slots)
    env = {} if on_gpu else {"VLLM_CPU_KVCACHE_SPACE": str(max(1, cache // GIB))}
    arguments += _image_arguments(settings) if model.supports_images else []
    arguments += _parallel(settings)
    if settings.vllm_distributed_executor != "ray":
        # All processes are on this machine; changes of the network must not affect them.
        env["VLLM_HOST_IP"] = "127.0.0.1"
    arguments += shlex.split(settings.vllm_extra_args)
    return Sizing(EngineLimits(slots, pool, context), arguments=arguments, env=env)


def parallel(settings: Settings) -> int:
    """Return the number of GPUs that one model is distributed over."""
    return settings.vllm_tensor_parallel_size * settings.vllm_pipeline_parallel_size


def _model_arguments(owner: ModelSettings) -> list[str]:
    """Translate the settings of the model to vLLM's arguments."""
    arguments = []
    if owner.kv_cache_type == "fp8":
        arguments += ["--kv-cache-dtype", "fp8"]
    if owner.ngram:
        ngram = {"method": "ngram", "num_speculative_tokens": owner.ngram, "prompt_lookup_max": 4}
        arguments += ["--speculative-config", json.dumps(ngram)]
    if owner.draft_model:
        draft = {"model": str(owner.draft_model), "num_speculative_tokens": DRAFTED}
        arguments += ["--speculative-config", json.dumps(draft)]
    return arguments


def _image_arguments(settings: Settings) -> list[str]:
    """Return the arguments of a vision model: as many images as a request may have."""
    return [
        *("--limit-mm-per-prompt", json.dumps({"image": settings.image_max_count, "video": 0})),
        *("--mm-processor-cache-gb", str(IMAGE_CACHE_GB if settings.shared_prefix_cache else 0)),
    ]


def _embedder(model: Model, settings: Settings, on_gpu: bool) -> Sizing:
    limits = embedding_limits.limits(model, settings)
    step = str(max(EMBEDDING_STEP_TOKENS, limits.context))
    arguments = [
        *("--runner", "pooling"),
        *("--max-model-len", str(limits.context)),
        *("--max-num-seqs", str(embedding_limits.MAX_TEXTS)),
        *("--max-num-batched-tokens", step),
        "--disable-uvicorn-access-log",
        "--no-enable-log-requests",
    ]
    if on_gpu:
        share = settings.vllm_gpu_memory_utilization / settings.max_concurrent_models
        arguments += ["--gpu-memory-utilization", f"{share:.3g}"]
    else:
        # Embedding models are small; float32 avoids rounding their vectors to 16 bits.
        arguments += ["--enforce-eager", "--dtype", "float32"]
    if not settings.shared_prefix_cache:
        arguments.append("--no-enable-prefix-caching")
    env = {"VLLM_HOST_IP": "127.0.0.1"}
    if not on_gpu:
        env["VLLM_CPU_KVCACHE_SPACE"] = "1"
    arguments += shlex.split(settings.vllm_extra_args)
    return Sizing(limits, arguments=arguments, env=env)


def _common(slots: int, context: int) -> list[str]:
    return [
        *("--max-model-len", str(context)),
        *("--max-num-seqs", str(slots)),
        "--enable-prefix-caching",
        "--enable-chunked-prefill",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        "--no-enable-log-requests",
        # All sampling parameters are sent explicitly; the model's defaults never apply.
        *("--generation-config", "vllm"),
        # The only backend that accepts our grammars (see `chat/grammar.py`).
        *("--structured-outputs-config", '{"backend": "guidance"}'),
        # vLLM would run the model's own template at its start, without limits.
        *("--chat-template", AS_IT_IS),
        # For requests that name it again, and for images (see `vllm.adapter.IN_PARTS`).
        "--trust-request-chat-template",
    ]


def _on_cpu(slots: int) -> list[str]:
    step = str(max(CPU_STEP_TOKENS, slots))
    # Compiling takes minutes on a CPU and brings little speed.
    return ["--enforce-eager", "--dtype", "bfloat16", "--max-num-batched-tokens", step]


def _on_gpu(slots: int, settings: Settings, machine: Machine, cache: int) -> list[str]:
    share = settings.vllm_gpu_memory_utilization / settings.max_concurrent_models
    arguments = ["--gpu-memory-utilization", f"{share:.3g}"]
    spread = parallel(settings)
    if settings.max_concurrent_models > 1:
        # vLLM measures free memory at startup, which another engine that loads or generates at
        # that moment distorts. So the size of the KV cache is given explicitly.
        arguments += ["--kv-cache-memory-bytes", str(cache // spread)]
    fronts = min(MAX_FRONTS, machine.cores_logical // CORES_PER_FRONT)
    if slots > STREAMS_PER_FRONT and fronts > 1:
        arguments += ["--api-server-count", str(fronts)]
    return arguments


def _parallel(settings: Settings) -> list[str]:
    tensor, pipeline = settings.vllm_tensor_parallel_size, settings.vllm_pipeline_parallel_size
    arguments = ["--tensor-parallel-size", str(tensor), "--pipeline-parallel-size", str(pipeline)]
    if tensor * pipeline > 1:
        arguments += ["--distributed-executor-backend", settings.vllm_distributed_executor]
    return arguments


def _cpu_cache(machine: Machine, per_token: int | None) -> int:
    """Return the KV cache size in bytes: whole GiB, as vLLM requires, and at least one."""
    affordable = int(machine.memory_bytes * CPU_KV_FRACTION)
    wanted = per_token * 1024 * MAX_SEQUENCES_CPU if per_token else 4 * GIB
    return max(1, -(-min(affordable, wanted) // GIB)) * GIB


def _gpu_cache(model: Model, settings: Settings, machine: Machine) -> int:
    """Return the KV cache size in bytes over all GPUs of a model."""
    spread = parallel(settings)
    memory = min(gpu.memory_bytes for gpu in machine.gpus) * spread
    share = settings.vllm_gpu_memory_utilization / settings.max_concurrent_models
    return max(GIB, int(memory * share) - model.size_bytes - GPU_OVERHEAD * spread)
