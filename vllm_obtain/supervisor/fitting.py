"""Whether an engine fits into memory beside what runs: estimates. Pure, but for config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vllm_obtain.catalogue import Model
from vllm_obtain.engines import hf_config
from vllm_obtain.hardware import Machine
from vllm_obtain.messages import Limits

GIB = 2**30
# What a process takes of a GPU beside weights and cache: its libraries, and buffers for a step.
OVERHEAD_GPU = 3 * GIB
# Weights take more room in memory than on disk: some are kept twice, or made wider.
WEIGHTS = 1.1
# Of all memory, which an engine that is loaded beside another one leaves free.
SPARE = 0.05


def need(
    model: Model,
    limits: Limits,
    overhead: int,
    value_bytes: float = 2,
    weights: int | None = None,
) -> int:
    """Estimate the bytes that an engine process will take.

    Args:
        model: the files that it loads.
        limits: what it will be able to hold.
        overhead: what the process takes beside weights and cache.
        value_bytes: what a value in its cache takes.
        weights: bytes of its weights when they are not as in the files.
    """
    per_token = _cache_bytes_per_token(model) or 0
    cache = int(limits.pool_tokens * per_token * value_bytes / 2)
    return int((weights or model.size_bytes) * WEIGHTS) + cache + overhead


def fits(needed: int, available: int, total: int) -> bool:
    """Whether so many bytes can be taken without driving the machine to its limit."""
    return needed <= available - total * SPARE


def on_own_gpu(machine: Machine, device: str) -> bool:
    """Whether engines live in memory that is a GPU's own."""
    return device == "cuda" and any(not gpu.unified for gpu in machine.gpus)


def free_and_total(
    values: Mapping[str, float], on_gpu: bool, gpus: Sequence[int] = ()
) -> tuple[int, int]:
    """Read from `hardware.sample` how much memory is free where engines live.

    Args:
        values: what was measured.
        on_gpu: whether in GPUs' own memory.
        gpus: which ones; all when left out.

    Returns:
        Both numbers; zeros when nothing is known, so that nothing fits.
    """
    if not on_gpu:
        total = values.get("memory_total_bytes", 0)
        return int(values.get("memory_available_bytes", 0)), int(total)
    totals = {name: value for name, value in values.items() if name.endswith("_memory_total_bytes")}
    own = tuple(f"gpu{number}_" for number in gpus) or "gpu"
    cards = {name: value for name, value in totals.items() if name.startswith(own)}
    used = sum(values.get(name.replace("_total_", "_used_"), 0) for name in cards)
    total = sum(cards.values())
    return int(total - used), int(total)


def _cache_bytes_per_token(model: Model) -> int | None:
    if model.header is not None:
        return model.header.kv_bytes_per_token()
    return hf_config.read(model).kv_bytes_per_token
