"""What NVML says about NVIDIA GPUs; nothing, quietly, where there is no driver.

Part of `hardware.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any


def names_and_memory() -> list[tuple[str, int | None]]:
    """List the GPUs that this process may use.

    Returns:
        For each its name and its memory in bytes; None where the GPU shares the machine's.
    """
    return [(_name(nvml, gpu), _memory(nvml, gpu)[0]) for nvml, gpu in _gpus()]


def sample() -> dict[str, float]:
    """Measure now: `gpu<N>_utilization_percent`, `gpu<N>_memory_{used,total}_bytes`.

    What a GPU does not report is left out. N counts the GPUs that this process may use.
    """
    values: dict[str, float] = {}
    for index, (nvml, gpu) in enumerate(_gpus()):
        rates = _ask(nvml.nvmlDeviceGetUtilizationRates, gpu)
        if rates is not None:
            values[f"gpu{index}_utilization_percent"] = float(rates.gpu)
        total, used = _memory(nvml, gpu)
        if total is not None and used is not None:
            values[f"gpu{index}_memory_used_bytes"] = float(used)
            values[f"gpu{index}_memory_total_bytes"] = float(total)
    return values


def driver() -> str | None:
    """Return the version of the driver, such as "580.95.05"; None where there is none to ask."""
    gpus = _gpus()
    return _text(_ask_driver(gpus[0][0]) or "") or None if gpus else None


def visible(setting: str | None, uuids: Sequence[str]) -> list[int]:
    """Read CUDA_VISIBLE_DEVICES as CUDA does.

    Args:
        setting: the variable; None when it is not set, which shows all.
        uuids: the GPUs of the machine, in order.

    Returns:
        Indices into `uuids`; the list ends at the first entry that is no GPU.
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
    """Pairs of the NVML module and a handle of it."""
    return _opened(os.getpid())


@cache
def _opened(_pid: int) -> list[tuple[Any, Any]]:
    # once per process: NVML's state does not survive a fork
    try:
        import pynvml as nvml

        nvml.nvmlInit()
        found = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        setting = os.environ.get("CUDA_VISIBLE_DEVICES")
        if setting and setting.startswith("MIG-"):  # a slice of a GPU, which has its own handle
            return [(nvml, nvml.nvmlDeviceGetHandleByUUID(e)) for e in setting.split(",")]
        uuids = [_text(_ask(nvml.nvmlDeviceGetUUID, gpu) or "") for gpu in found]
        return [(nvml, found[i]) for i in visible(setting, uuids)]
    except Exception:  # no package, no driver, a driver of another version, no right to ask
        return []


def _ask(question: Callable[[Any], Any], gpu: Any) -> Any:
    try:
        return question(gpu)
    except Exception:  # a GPU may answer some questions and not others
        return None


def _ask_driver(nvml: Any) -> Any:
    try:
        return nvml.nvmlSystemGetDriverVersion()
    except Exception:  # as in _ask
        return None


def _name(nvml: Any, gpu: Any) -> str:
    return _text(_ask(nvml.nvmlDeviceGetName, gpu) or "NVIDIA GPU")


def _memory(nvml: Any, gpu: Any) -> tuple[int | None, int | None]:
    answer = _ask(nvml.nvmlDeviceGetMemoryInfo, gpu)
    return (None, None) if answer is None else (int(answer.total), int(answer.used))


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
