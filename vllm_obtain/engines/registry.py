"""Which engines there are. An adapter is imported when it is asked for, never before."""

from __future__ import annotations

import importlib
from typing import Final

from vllm_obtain.engines.base import Adapter
from vllm_obtain.errors import EngineFailed
from vllm_obtain.hardware import DeviceName, Machine, describe
from vllm_obtain.settings import Settings

BUILT_IN = {
    "llama_cpp": "vllm_obtain.engines.llama_cpp:LlamaCpp",
    "mlx": "vllm_obtain.engines.mlx_engine:Mlx",
    "vllm": "vllm_obtain.engines.vllm_engine:Vllm",
}
# By device, the best first; see docs/architecture.md for why.
ORDER: Final[dict[DeviceName, tuple[str, ...]]] = {
    "mps": ("mlx", "llama_cpp", "vllm"),
    "cuda": ("vllm", "llama_cpp", "mlx"),
    "cpu": ("llama_cpp", "vllm", "mlx"),
}


def adapter(name: str, settings: Settings) -> Adapter:
    """Make the adapter of an engine.

    Args:
        name: a key of BUILT_IN, or one that EXTRA_ENGINES adds.

    Raises:
        EngineFailed: there is no such engine, or its adapter cannot be imported.
    """
    known = {**BUILT_IN, **settings.engine_plugins}
    target = known.get(name)
    if target is None:
        raise _not_installed(
            f"The engine '{name}' is not part of this version. "
            f"Set INFERENCE_ENGINE=auto, or one of: {', '.join(known)}."
        )
    module, _, cls = target.partition(":")
    try:
        made = getattr(importlib.import_module(module), cls)(settings)
    except Exception as error:  # a plugin runs its own code here
        raise _not_installed(
            f"The engine '{name}' cannot be imported from '{target}': {error}."
        ) from error
    if not isinstance(made, Adapter):
        raise _not_installed(f"The engine '{name}': '{target}' is no Adapter; see engines/base.py.")
    return made


def candidates(settings: Settings, machine: Machine | None = None) -> list[str]:
    """List the engines that may serve, the preferred one first.

    Args:
        settings: INFERENCE_ENGINE leaves one; auto takes all, those of EXTRA_ENGINES last.
        machine: the machine to decide for; this one when left out.
    """
    if settings.inference_engine != "auto":
        return [settings.inference_engine]
    return list(dict.fromkeys([*ORDER[order_by(settings, machine)], *settings.engine_plugins]))


def order_by(settings: Settings, machine: Machine | None = None) -> DeviceName:
    """Name the device that decides the order: DEVICE_TYPE, or the best that is here."""
    device = settings.device_type
    return (machine or describe()).device if device == "auto" else device


def _not_installed(message: str) -> EngineFailed:
    return EngineFailed(message, status=503, code="engine_not_installed")
