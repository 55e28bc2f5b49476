"""Estimates of the memory use of engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.engines import hf_config
from vllm_obtain.hardware.machine import Machine
from vllm_obtain.models import Model

GIB = 2**30
# GPU memory of a process in addition to weights and KV cache: libraries and step buffers.
OVERHEAD_GPU = 3 * GIB
# Weights in memory per byte on disk. Some tensors are duplicated or stored in a wider type.
WEIGHTS = 1.1
# Share of all memory to leave free when an engine is loaded beside another one.
SPARE = 0.05


def need(
    model: Model,
    limits: EngineLimits,
    overhead: int,
    value_bytes: float = 2,
    weights: int | None = None,
) -> int:
    """Estimate the memory use of an engine process in bytes.

    Args:
        model: the files to load.
        limits: capacity of the process.
        overhead: bytes in addition to weights and KV cache.
        value_bytes: bytes of a value in the KV cache.
        weights: bytes of the weights in memory, None for those of the files.
    """
    per_token = _cache_bytes_per_token(model) or 0
    cache = int(limits.pool_tokens * per_token * value_bytes / 2)
    return int((weights or model.size_bytes) * WEIGHTS) + cache + overhead


def fits(needed: int, available: int, total: int) -> bool:
    """Whether `needed` bytes leave at least SPARE of the memory free."""
    return needed <= available - total * SPARE


def on_own_gpu(machine: Machine, device: str) -> bool:
    """Whether engines use dedicated GPU memory."""
    return device == "cuda" and any(not gpu.unified for gpu in machine.gpus)


def free_and_total(
    values: Mapping[str, float], on_gpu: bool, gpus: Sequence[int] = ()
) -> tuple[int, int]:
    """Return free and total memory for engines, from `hardware.machine.sample`.

    Args:
        values: the sample.
        on_gpu: whether to return dedicated GPU memory.
        gpus: numbers of the GPUs, empty for all.

    Returns:
        Free and total bytes; zeros if unknown, so that nothing fits.
    """
    if not on_gpu:
        total = values.get("memory_total_bytes", 0)
        return int(values.get("memory_available_bytes", 0)), int(total)
    totals = {name: value for name, value in values.items() if name.endswith("_memory_total_bytes")}
    prefixes = tuple(f"gpu{number}_" for number in gpus) or "gpu"
    gpu_totals = {name: value for name, value in totals.items() if name.startswith(prefixes)}
    used = sum(values.get(name.replace("_total_", "_used_"), 0) for name in gpu_totals)
    total = sum(gpu_totals.values())
    return int(total - used), int(total)


def _cache_bytes_per_token(model: Model) -> int | None:
    if model.header is not None:
        return model.header.kv_bytes_per_token()
    return hf_config.read(model).kv_bytes_per_token
