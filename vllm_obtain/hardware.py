"""What machine this is, and how busy it is. Nothing here raises on an odd machine.

Reading and parsing is in `_host.py`, `_nvidia.py` and `_footprint.py`.
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

from vllm_obtain import _host, _nvidia
from vllm_obtain._footprint import most_memory, process_memory
from vllm_obtain.errors import StartError

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
# A gateway process relays some 10,000 tokens a second; the engine wants cores too.
CORES_PER_WORKER = 2
MAX_WORKERS = 8


@dataclass(frozen=True, slots=True)
class GPU:
    """A graphics processor that engines can use.

    Args:
        name: as its driver names it.
        memory_bytes: its memory, in bytes.
        unified: whether that is the machine's own memory, and so not to be counted twice.
    """

    name: str
    memory_bytes: int
    unified: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while the service runs.

    Args:
        system: "Linux" or "Darwin".
        arch: as the system names it, such as "x86_64", "aarch64" or "arm64".
        cpu_model: the processor's name, or the architecture where it has none.
        cores_physical: cores that this process may use.
        cores_logical: hardware threads that this process may use (affinity and cgroup limits).
        performance_cores: the fast ones of cores_physical.
        memory_bytes: memory that this process may use (a container may have less), in bytes.
        gpus: empty where engines have only the processor.
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
        """The fastest device that engines can use here."""
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
    """Describe this machine; measured once per process."""
    system, arch = platform.system(), platform.machine()
    if system == "Darwin":
        return describe_mac(arch, _host.sysctl(), _host.total_memory())
    folders = _host.cgroups()
    total = _host.total_memory()
    memory = min(total, _host.memory_limit(folders) or total)
    logical = min(_host.allowed_cores(), _host.cpu_limit(folders) or 1_000_000)
    physical = min(_host.physical_cores() or logical, logical)
    return Machine(
        system=system,
        arch=arch,
        cpu_model=_host.parse_cpuinfo(_host.read(Path("/proc/cpuinfo")), arch),
        cores_physical=physical,
        cores_logical=logical,
        performance_cores=physical,
        memory_bytes=memory,
        gpus=tuple(
            GPU(name, own or memory, unified=own is None)
            for name, own in _nvidia.names_and_memory()
        ),
    )


def describe_mac(arch: str, values: Mapping[str, str], memory: int) -> Machine:
    """Describe a Mac.

    Args:
        arch: "arm64" on Apple Silicon (not under Rosetta).
        values: what sysctl answered; names may be missing.
        memory: the memory in bytes, for when sysctl did not say.
    """
    logical = _host.number(values.get("hw.logicalcpu")) or os.cpu_count() or 1
    physical = _host.number(values.get("hw.physicalcpu")) or logical
    memory = _host.number(values.get("hw.memsize")) or memory
    model = values.get("machdep.cpu.brand_string") or arch
    return Machine(
        system="Darwin",
        arch=arch,
        cpu_model=model,
        cores_physical=physical,
        cores_logical=logical,
        performance_cores=_host.number(values.get("hw.perflevel0.physicalcpu")) or physical,
        memory_bytes=memory,
        gpus=(GPU(model, memory, unified=True),) if arch == "arm64" else (),
    )


def workers(setting: int, machine: Machine | None = None) -> int:
    """Decide how many gateway processes there are.

    Args:
        setting: WORKERS; 0 ("auto") is one for every two cores, at most 8.
        machine: the machine to decide for; this one when left out.
    """
    cores = (machine or describe()).cores_logical
    return setting or max(1, min(MAX_WORKERS, cores // CORES_PER_WORKER))


def device(setting: str, machine: Machine | None = None) -> DeviceName:
    """Decide which device engines use.

    Args:
        setting: DEVICE_TYPE: "auto", "mps", "cuda" or "cpu".
        machine: the machine to decide for; this one when left out.

    Raises:
        StartError: the device asked for is not there; the message says what is.
    """
    machine = machine or describe()
    if setting == "auto" or setting == machine.device:
        return machine.device
    if setting == "cpu":
        return "cpu"
    needs = {"mps": "an Apple Silicon Mac and an arm64 Python", "cuda": "an NVIDIA GPU"}
    raise StartError(
        f"DEVICE_TYPE={setting} needs {needs.get(setting, 'a device of that name')}, and this "
        f"machine has none ({machine}). Set DEVICE_TYPE=auto, which is {machine.device} here."
    )


def driver() -> str | None:
    """Return the version of NVIDIA's driver; None where there is no GPU of theirs."""
    return _nvidia.driver()


def sample(folder: Path | None = None) -> dict[str, float]:
    """Measure how busy the machine is now; does not block.

    Args:
        folder: where models lie, for the disk values; the working directory when left out.

    Returns:
        cpu_percent (0 to 100, since this thread's last call; 0.0 at its first),
        memory_{total,used,available}_bytes, disk_{total,free}_bytes, and the values of
        `_nvidia.sample`. What cannot be measured is left out.
    """
    values: dict[str, float] = {}
    try:
        values["cpu_percent"] = psutil.cpu_percent(interval=None)
        values |= _memory()
    except (psutil.Error, OSError, RuntimeError, ValueError):
        pass
    return values | _disk(folder or Path()) | _nvidia.sample()


def _memory() -> dict[str, float]:
    total = describe().memory_bytes
    free = psutil.virtual_memory().available
    left = _host.memory_left(_host.cgroups())
    available = min(total, free, free if left is None else left)
    return {
        "memory_total_bytes": float(total),
        "memory_used_bytes": float(total - available),
        "memory_available_bytes": float(available),
    }


def _disk(folder: Path) -> dict[str, float]:
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            usage = psutil.disk_usage(str(place))
        except OSError:
            continue  # MODELS_DIR may not be there yet; it will be on its parent's disk
        return {"disk_total_bytes": float(usage.total), "disk_free_bytes": float(usage.free)}
    return {}
