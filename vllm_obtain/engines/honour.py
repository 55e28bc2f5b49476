"""Whether an engine can honour what the owner set for a model; what it cannot is never dropped."""

from __future__ import annotations

from dataclasses import replace

from vllm_obtain.catalogue import Model
from vllm_obtain.engines import detect
from vllm_obtain.errors import EngineFailed
from vllm_obtain.hardware import Machine
from vllm_obtain.model_settings import ModelSettings
from vllm_obtain.settings import Settings

# Bytes of a value in a cache: q8_0 keeps 32 of them and a scale of 16 bits in 34 bytes.
VALUE_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "fp8": 1.0}
# The keys that need an engine's help; the others are done in front of it.
KEYS = ("context", "kv_cache_type", "draft_model", "ngram", "lora", "gpu")


def wanted(owner: ModelSettings) -> list[str]:
    """List the keys that are set and that an engine has to honour."""
    return [key for key in KEYS if getattr(owner, key) is not None]


def said(key: str, owner: ModelSettings, why: str) -> str:
    """Say that a key cannot be honoured, so that the owner finds it."""
    value = getattr(owner, key)
    shown = value if isinstance(value, int | list) else f'"{value}"'
    return f"MODEL_SETTINGS sets {key} = {shown} for it: {why}"


def value_bytes(owner: ModelSettings) -> float:
    """What a value in its cache takes."""
    return VALUE_BYTES[owner.kv_cache_type or "f16"]


def beside_bytes(owner: ModelSettings) -> int:
    """What is loaded beside a model's own files: one that guesses ahead, an adapter."""
    paths = [path for path in (owner.draft_model, owner.lora) if path is not None]
    files = [f for path in paths for f in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def context_too_long(owner: ModelSettings, model: Model) -> str | None:
    """Say why a context is longer than the model has; None when it is not."""
    most = model.context_length
    if most is None or owner.context is None or owner.context <= most:
        return None
    return f"the model was trained for {most} tokens."


def no_such_gpu(engine: str, owner: ModelSettings, settings: Settings) -> str | None:
    """Say why an engine cannot be put on the GPUs that are named; None when it can."""
    on = detect.facts(engine, settings).device
    if on != "cuda":
        return f"{engine} computes on {on or 'nothing'} here, not on NVIDIA GPUs."
    count = len(detect.host().machine.gpus)
    if max(owner.gpus) >= count:
        return f"there are {count} here, numbered from 0."
    return None


def require_context(owner: ModelSettings, model: Model, pool: int) -> None:
    """Hold an engine to the context that was set.

    Args:
        owner: what is set for the model.
        model: the model.
        pool: the tokens that its cache can hold.

    Raises:
        EngineFailed: memory does not hold it.
    """
    if owner.context is not None and owner.context > pool:
        raise EngineFailed(
            f"'{model.name}' cannot be loaded: MODEL_SETTINGS sets context = {owner.context}, and "
            f"memory holds a cache of {pool} tokens. Lower it, or set a smaller kv_cache_type.",
            status=503,
            code="model_load_failed",
            retry=False,
        )


def visible(machine: Machine, owner: ModelSettings) -> Machine:
    """The machine as an engine sees it that is put on some of its GPUs."""
    if not owner.gpus:
        return machine
    return replace(machine, gpus=tuple(machine.gpus[number] for number in owner.gpus))


def gpu_variables(owner: ModelSettings) -> dict[str, str]:
    """The variables that leave an engine some GPUs, numbered as nvidia-smi does."""
    if not owner.gpus:
        return {}
    numbers = ",".join(str(number) for number in owner.gpus)
    return {"CUDA_VISIBLE_DEVICES": numbers, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
