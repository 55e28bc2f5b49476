"""Reads NVIDIA GPUs through NVML; without a driver there are no GPUs and no errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any


def names_and_memory() -> list[tuple[str, int | None]]:
    """List the GPUs that this process may use.

    Returns:
        The name and the memory in bytes of each GPU; None if it shares the machine's memory.
    """
    return [(_name(nvml, gpu), _memory(nvml, gpu)[0]) for nvml, gpu in _gpus()]


def sample() -> dict[str, float]:
    """Measure `gpu<N>_utilization_percent` and `gpu<N>_memory_{used,total}_bytes`.

    N is the index among the GPUs that this process may use. Values that a GPU does not report are
    left out.
    """
    values: dict[str, float] = {}
    for index, (nvml, gpu) in enumerate(_gpus()):
        rates = _query(nvml.nvmlDeviceGetUtilizationRates, gpu)
        if rates is not None:
            values[f"gpu{index}_utilization_percent"] = float(rates.gpu)
        total, used = _memory(nvml, gpu)
        if total is not None and used is not None:
            values[f"gpu{index}_memory_used_bytes"] = float(used)
            values[f"gpu{index}_memory_total_bytes"] = float(total)
    return values


def driver() -> str | None:
    """Return the driver version, such as "580.95.05"; None without a GPU."""
    gpus = _gpus()
    return _text(_driver_version(gpus[0][0]) or "") or None if gpus else None


def visible(setting: str | None, uuids: Sequence[str]) -> list[int]:
    """Interpret CUDA_VISIBLE_DEVICES as CUDA does.

    Args:
        setting: the value of the variable; None if it is not set, which makes all GPUs visible.
        uuids: the UUIDs of the machine's GPUs, in order.

    Returns:
        Indices into `uuids`; the list ends before the first invalid entry.
    """
    if setting is None:
        return list(range(len(uuids)))
    chosen: list[int] = []
    for entry in (item.strip() for item in setting.split(",")):
        if entry.isdecimal():
            matches = [int(entry)] if int(entry) < len(uuids) else []
        else:
            matches = [i for i, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(matches) != 1 or matches[0] in chosen:
            break
        chosen += matches
    return chosen


def _gpus() -> list[tuple[Any, Any]]:
    """Pairs of the NVML module and a GPU handle."""
    return _open(os.getpid())


@cache
def _open(_pid: int) -> list[tuple[Any, Any]]:
    # The pid is the cache key, since NVML must be initialized again after a fork.
    try:
        import pynvml as nvml

        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        setting = os.environ.get("CUDA_VISIBLE_DEVICES")
        if setting and setting.startswith("MIG-"):  # a slice of a GPU, which has its own handle
            return [(nvml, nvml.nvmlDeviceGetHandleByUUID(e)) for e in setting.split(",")]
        uuids = [_text(_query(nvml.nvmlDeviceGetUUID, gpu) or "") for gpu in handles]
        return [(nvml, handles[i]) for i in visible(setting, uuids)]
    except Exception:  # package or driver missing, version mismatch, or no permission
        return []


def _query(function: Callable[[Any], Any], gpu: Any) -> Any:
    try:
        return function(gpu)
    except Exception:  # a GPU may support some queries and not others
        return None


def _driver_version(nvml: Any) -> Any:
    try:
        return nvml.nvmlSystemGetDriverVersion()
    except Exception:  # as in _query
        return None


def _name(nvml: Any, gpu: Any) -> str:
    return _text(_query(nvml.nvmlDeviceGetName, gpu) or "NVIDIA GPU")


def _memory(nvml: Any, gpu: Any) -> tuple[int | None, int | None]:
    info = _query(nvml.nvmlDeviceGetMemoryInfo, gpu)
    return (None, None) if info is None else (int(info.total), int(info.used))


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
