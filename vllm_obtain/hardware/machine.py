"""Describes the machine and measures its load; missing information never raises an error.

`host.py`, `nvidia.py` and `process_memory.py` read and parse the values.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import psutil

from vllm_obtain.errors import StartError
from vllm_obtain.hardware import host as host_info
from vllm_obtain.hardware import nvidia
from vllm_obtain.hardware.process_memory import most_memory, process_memory

__all__ = [
    "GPU",
    "DeviceName",
    "Machine",
    "describe",
    "device",
    "driver",
    "most_memory",
    "process_memory",
    "sample",
    "workers",
]

DeviceName = Literal["mps", "cuda", "cpu"]
# A gateway worker streams some 10,000 tokens per second; engines need cores as well.
CORES_PER_WORKER = 2
MAX_WORKERS = 8


@dataclass(frozen=True, slots=True)
class GPU:
    """A GPU that engines can use.

    Args:
        name: the name reported by the driver.
        memory_bytes: the GPU memory in bytes.
        unified: whether the GPU shares the memory of the machine.
    """

    name: str
    memory_bytes: int
    unified: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware that this process may use; constant while the service runs.

    Args:
        system: "Linux" or "Darwin".
        arch: the architecture, such as "x86_64", "aarch64" or "arm64".
        cpu_model: the processor name, or the architecture if unknown.
        cores_physical: usable physical cores.
        cores_logical: usable hardware threads, within CPU affinity and cgroup limits.
        performance_cores: the performance cores among cores_physical.
        memory_bytes: usable memory in bytes, within cgroup limits.
        gpus: the usable GPUs.
    """

    system: str
    arch: str
    cpu_model: str
    cores_physical: int
    cores_logical: int
    performance_cores: int
    memory_bytes: int
    gpus: tuple[GPU, ...] = ()

    @property
    def device(self) -> DeviceName:
        """The fastest device of this machine."""
        if self.system == "Darwin" and self.arch == "arm64":
            return "mps"
        return "cuda" if self.gpus else "cpu"

    def __str__(self) -> str:
        cards = [gpu.name for gpu in self.gpus if gpu.name != self.cpu_model]
        gpus = ", ".join(cards) or "no NVIDIA GPU"
        size = f"{self.memory_bytes / 2**30:.0f} GiB"
        return f"{self.system} {self.arch}, {self.cpu_model}, {size}, {gpus}"


@cache
def describe() -> Machine:
    """Describe this machine; the result is cached per process."""
    system, arch = platform.system(), platform.machine()
    if system == "Darwin":
        return describe_mac(arch, host_info.sysctl(), host_info.total_memory())
    folders = host_info.cgroups()
    total = host_info.total_memory()
    memory = min(total, host_info.memory_limit(folders) or total)
    logical = min(host_info.allowed_cores(), host_info.cpu_limit(folders) or 1_000_000)
    physical = min(host_info.physical_cores() or logical, logical)
    return Machine(
        system=system,
        arch=arch,
        cpu_model=host_info.parse_cpuinfo(host_info.read(Path("/proc/cpuinfo")), arch),
        cores_physical=physical,
        cores_logical=logical,
        performance_cores=physical,
        memory_bytes=memory,
        gpus=tuple(
            GPU(name, own or memory, unified=own is None) for name, own in nvidia.names_and_memory()
        ),
    )


def describe_mac(arch: str, values: Mapping[str, str], memory: int) -> Machine:
    """Describe a Mac.

    Args:
        arch: "arm64" on Apple silicon (not under Rosetta).
        values: the values of sysctl; any may be missing.
        memory: the memory in bytes if sysctl does not report it.
    """
    logical = host_info.number(values.get("hw.logicalcpu")) or os.cpu_count() or 1
    physical = host_info.number(values.get("hw.physicalcpu")) or logical
    memory = host_info.number(values.get("hw.memsize")) or memory
    model = values.get("machdep.cpu.brand_string") or arch
    return Machine(
        system="Darwin",
        arch=arch,
        cpu_model=model,
        cores_physical=physical,
        cores_logical=logical,
        performance_cores=host_info.number(values.get("hw.perflevel0.physicalcpu")) or physical,
        memory_bytes=memory,
        gpus=(GPU(model, memory, unified=True),) if arch == "arm64" else (),
    )


def workers(setting: int, machine: Machine | None = None) -> int:
    """Return the number of gateway workers.

    Args:
        setting: WORKERS; 0 ("auto") means one worker per two cores, at most 8.
        machine: the machine; defaults to this one.
    """
    cores = (machine or describe()).cores_logical
    return setting or max(1, min(MAX_WORKERS, cores // CORES_PER_WORKER))


def device(setting: str, machine: Machine | None = None) -> DeviceName:
    """Return the device for engines.

    Args:
        setting: DEVICE_TYPE: "auto", "mps", "cuda" or "cpu".
        machine: the machine; defaults to this one.

    Raises:
        StartError: the machine does not have the device.
    """
    machine = machine or describe()
    if setting == "auto" or setting == machine.device:
        return machine.device
    if setting == "cpu":
        return "cpu"
    needs = {"mps": "an Apple silicon Mac and an arm64 Python", "cuda": "an NVIDIA GPU"}
    raise StartError(
        f"DEVICE_TYPE={setting} requires {needs.get(setting, 'a device of that name')}, which "
        f"this machine does not have ({machine}). Set DEVICE_TYPE=auto, which selects "
        f"{machine.device} here."
    )


def driver() -> str | None:
    """Return the version of the NVIDIA driver; None without an NVIDIA GPU."""
    return nvidia.driver()


def sample(folder: Path | None = None) -> dict[str, float]:
    """Measure the load of the machine; does not block.

    Args:
        folder: the folder whose disk is measured; defaults to the working directory.

    Returns:
        cpu_percent (0 to 100, since the last call in this thread; 0.0 on the first call),
        memory_{total,used,available}_bytes, disk_{total,free}_bytes, and the values of
        `nvidia.sample`. Values that cannot be measured are left out.
    """
    values: dict[str, float] = {}
    try:
        values["cpu_percent"] = psutil.cpu_percent(interval=None)
        values |= _memory()
    except (psutil.Error, OSError, RuntimeError, ValueError):
        pass
    return values | _disk(folder or Path()) | nvidia.sample()


def _memory() -> dict[str, float]:
    total = describe().memory_bytes
    free = psutil.virtual_memory().available
    left = host_info.memory_left(host_info.cgroups())
    available = min(total, free, free if left is None else left)
    return {
        "memory_total_bytes": float(total),
        "memory_used_bytes": float(total - available),
        "memory_available_bytes": float(available),
    }


def _disk(folder: Path) -> dict[str, float]:
    for path in (folder.absolute(), *folder.absolute().parents):
        try:
            usage = psutil.disk_usage(str(path))
        except OSError:
            continue  # MODELS_DIR may not exist yet; it will be on the disk of its parent
        return {"disk_total_bytes": float(usage.total), "disk_free_bytes": float(usage.free)}
    return {}
