"""Checks whether an engine can honour the settings of a model. Unsupported ones are errors."""

from __future__ import annotations

from dataclasses import replace

from vllm_obtain.config.model_settings import ModelSettings
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.detection import detect
from vllm_obtain.errors import EngineFailed
from vllm_obtain.hardware.machine import Machine
from vllm_obtain.models import Model

# Bytes of one value in a KV cache: q8_0 packs 32 values and a 16-bit scale into 34 bytes.
VALUE_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "fp8": 1.0}
# The keys that the engine has to implement; the gateway and the supervisor handle the others.
KEYS = ("context", "kv_cache_type", "draft_model", "ngram", "lora", "gpu")


def engine_keys(owner: ModelSettings) -> list[str]:
    """List the keys that are set and that an engine has to implement."""
    return [key for key in KEYS if getattr(owner, key) is not None]


def unsupported_message(key: str, owner: ModelSettings, why: str) -> str:
    """Build the error for a key that an engine cannot honour."""
    value = getattr(owner, key)
    shown = value if isinstance(value, int | list) else f'"{value}"'
    return f"MODEL_SETTINGS sets {key} = {shown} for it: {why}"


def value_bytes(owner: ModelSettings) -> float:
    """Return the bytes that one value takes in the model's KV cache."""
    return VALUE_BYTES[owner.kv_cache_type or "f16"]


def extra_bytes(owner: ModelSettings) -> int:
    """Return the size of what is loaded beside the model: a draft model, a LoRA adapter."""
    paths = [path for path in (owner.draft_model, owner.lora) if path is not None]
    files = [f for path in paths for f in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def context_too_long(owner: ModelSettings, model: Model) -> str | None:
    """Return an error if the configured context is longer than the model's, or None."""
    most = model.context_length
    if most is None or owner.context is None or owner.context <= most:
        return None
    return f"the model supports at most {most} tokens."


def why_no_gpu(engine: str, owner: ModelSettings, settings: Settings) -> str | None:
    """Return why an engine cannot run on the configured GPUs, or None if it can."""
    on = detect.facts(engine, settings).device
    if on != "cuda":
        return f"{engine} runs on {on or 'no device'} here, not on NVIDIA GPUs."
    count = len(detect.host().machine.gpus)
    if max(owner.gpus) >= count:
        return f"this machine has {count} GPUs, numbered from 0."
    return None


def require_context(owner: ModelSettings, model: Model, pool: int) -> None:
    """Check that the KV cache holds the configured context.

    Args:
        owner: the settings of the model.
        model: the model.
        pool: tokens that the KV cache can hold.

    Raises:
        EngineFailed: the memory does not suffice.
    """
    if owner.context is not None and owner.context > pool:
        raise EngineFailed(
            f"'{model.name}' cannot be loaded: MODEL_SETTINGS sets context = {owner.context}, but "
            f"the KV cache holds {pool} tokens. Lower context, or set a smaller kv_cache_type.",
            status=503,
            code="model_load_failed",
            retry=False,
        )


def visible(machine: Machine, owner: ModelSettings) -> Machine:
    """Return the machine with only the GPUs that the settings assign to the engine."""
    if not owner.gpus:
        return machine
    return replace(machine, gpus=tuple(machine.gpus[number] for number in owner.gpus))


def gpu_variables(owner: ModelSettings) -> dict[str, str]:
    """Return the variables that limit an engine to some GPUs, numbered as in nvidia-smi."""
    if not owner.gpus:
        return {}
    numbers = ",".join(str(number) for number in owner.gpus)
    return {"CUDA_VISIBLE_DEVICES": numbers, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
