"""The registry of engines. Adapters are imported on first use."""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Final

from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.errors import EngineFailed
from vllm_obtain.hardware.machine import DeviceName, Machine, describe

BUILT_IN = {
    "llama_cpp": "vllm_obtain.engines.llama_cpp.adapter:LlamaCpp",
    "mlx": "vllm_obtain.engines.mlx.adapter:Mlx",
    "vllm": "vllm_obtain.engines.vllm.adapter:Vllm",
}
# Engines by device, in order of preference. The reasons are in
# docs/decisions/26-engine-detection-and-selection.md.
ORDER: Final[dict[DeviceName, tuple[str, ...]]] = {
    "mps": ("mlx", "llama_cpp", "vllm"),
    "cuda": ("vllm", "llama_cpp", "mlx"),
    "cpu": ("llama_cpp", "vllm", "mlx"),
}

# Methods and attributes of adapters of version 0.1, by their names since 0.2.
_RENAMED = {
    "missing": "why_unavailable",
    "refuses": "why_not_loadable",
    "blind": "why_no_images",
    "sees": "supports_images",
    "dishonours": "unsupported_setting",
    "cannot": "why_option_unsupported",
    "keeps_stops": "exact_stop_sequences",
    "keep_apart": "apply_cache_isolation",
    "pins_slots": "isolates_by_slot",
    "vitals": "read_steps",
}


def adapter(name: str, settings: Settings) -> Adapter:
    """Create the adapter of an engine.

    Args:
        name: a key of BUILT_IN, or one that EXTRA_ENGINES adds.
        settings: the settings of the service.

    Raises:
        EngineFailed: the engine is unknown, or its adapter cannot be imported or was written
            for version 0.1.
    """
    known = {**BUILT_IN, **settings.engine_plugins}
    target = known.get(name)
    if target is None:
        raise _not_installed(
            f"Unknown engine '{name}'. Set INFERENCE_ENGINE=auto, or one of: {', '.join(known)}."
        )
    module, _, cls = target.partition(":")
    try:
        plugin = getattr(importlib.import_module(module), cls)
        changes = _changes(plugin)
        instance = None if changes else plugin(settings)
    except Exception as error:  # a plugin runs its own code here
        raise _not_installed(
            f"The engine '{name}' cannot be imported from '{target}': {error}."
        ) from error
    if changes:
        raise _not_installed(
            f"The engine '{name}' cannot be used: '{target}' is an adapter for version 0.1. "
            f"Change it: {', '.join(changes)}."
        )
    if not isinstance(instance, Adapter):
        raise _not_installed(
            f"The engine '{name}' cannot be used: '{target}' is not a subclass of Adapter "
            "(vllm_obtain/engines/adapter.py)."
        )
    return instance


def candidates(settings: Settings, machine: Machine | None = None) -> list[str]:
    """List the engines that may serve, the preferred one first.

    Args:
        settings: INFERENCE_ENGINE leaves one engine; auto allows all, EXTRA_ENGINES last.
        machine: the machine to decide for; this one if omitted.
    """
    if settings.inference_engine != "auto":
        return [settings.inference_engine]
    return list(dict.fromkeys([*ORDER[order_by(settings, machine)], *settings.engine_plugins]))


def order_by(settings: Settings, machine: Machine | None = None) -> DeviceName:
    """Return the device that decides the order: DEVICE_TYPE, or the best available one."""
    device = settings.device_type
    return (machine or describe()).device if device == "auto" else device


@functools.cache
def _changes(plugin: object) -> list[str]:
    """List what an adapter class needs to change, if it was written for version 0.1."""
    if not isinstance(plugin, type) or not issubclass(plugin, Adapter):
        return []
    changes = [f"{old} is now {new}" for old, new in _RENAMED.items() if hasattr(plugin, old)]
    try:
        inspect.signature(plugin.launch).bind("self", "model", "sizing", "socket")
    except TypeError:
        changes.append(
            "launch now takes (model, sizing, socket), with the sizing that "
            "plan(model, settings, machine) returns"
        )
    return changes


def _not_installed(message: str) -> EngineFailed:
    return EngineFailed(message, status=503, code="engine_not_installed")
