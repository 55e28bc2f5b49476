"""How much model a machine bears: the memory that models may take, its speed, and its class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vllm_obtain.hardware import DeviceName, Machine
from vllm_obtain.settings import Settings

GIB: Final = 2**30

BELOW, MINIMUM, RECOMMENDED, HIGH = "below minimum", "minimum", "recommended", "high-performance"
# From how many GiB on: of a Mac's memory, of NVIDIA's cards together, of the memory without a GPU.
_FROM: Final[dict[DeviceName, tuple[int, int, int]]] = {
    "mps": (16, 24, 64),
    "cuda": (8, 24, 48),
    "cpu": (8, 32, 64),
}
# What a driver or a BIOS keeps back must not put a machine into the class below.
_NEARLY: Final = 0.93

# Of a Mac's memory, what Metal lets a GPU have: two thirds, and three quarters of the larger ones.
_METAL_SMALL, _METAL_LARGE, _LARGE = 2 / 3, 3 / 4, 36 * GIB
# What the system and other programs keep where models lie in the machine's own memory.
_SYSTEM: Final = 2 * GIB

# GB/s between memory and processor, as Apple tells them. They bound the tokens per second.
_APPLE: Final = {
    "M1": 68, "M1 Pro": 200, "M1 Max": 400, "M1 Ultra": 800,
    "M2": 100, "M2 Pro": 200, "M2 Max": 400, "M2 Ultra": 800,
    "M3": 100, "M3 Pro": 150, "M3 Max": 300, "M3 Ultra": 819,
    "M4": 120, "M4 Pro": 273, "M4 Max": 410,
}  # fmt: skip
_APPLE_NEXT: Final = {"": 120, "Pro": 250, "Max": 400, "Ultra": 800}
# A Mac whose memory is slower than this is not of the highest class, however large.
_FAST_MAC: Final = 300
# Every card of NVIDIA's reads all of its memory so often in a second, or more often.
_READS: Final = 18
_UNIFIED: Final = 270
# One core of the machine that this was measured on moves 10 GB/s; several share what there is.
_CORE, _CORES_TOGETHER = 8, 60


@dataclass(frozen=True)
class Capacity:
    """What a machine bears.

    Args:
        device: what would compute.
        level: the machine's class.
        memory: bytes that models may take together.
        ram: bytes of the machine's own memory.
        bandwidth: GB/s that weights can be read with, about.
        cards: over how many GPUs a model is spread.
    """

    device: DeviceName
    level: str
    memory: int
    ram: int
    bandwidth: int
    cards: int = 1


def capacity(machine: Machine, settings: Settings) -> Capacity:
    """Judge a machine.

    Args:
        machine: the machine.
        settings: what its owner lets models have.
    """
    ram = machine.memory_bytes
    allowed = int(settings.memory_limit * (ram if settings.memory_limit <= 1 else 1))
    device: DeviceName = "cpu" if settings.device_type == "cpu" else machine.device
    if device == "mps":
        metal = _METAL_LARGE if ram > _LARGE else _METAL_SMALL
        memory = min(allowed, int(ram * min(settings.mlx_memory_fraction, metal)))
        speed = _apple(machine.cpu_model)
        level = _level(device, ram)
        if level == HIGH and speed < _FAST_MAC:
            level = RECOMMENDED
        return Capacity(device, level, memory, ram, speed)
    if device == "cuda":
        return _cuda(machine, settings, allowed)
    memory = max(0, min(allowed, ram - _SYSTEM))
    speed = min(_CORES_TOGETHER, _CORE * machine.cores_physical)
    return Capacity(device, _level(device, ram), memory, ram, speed)


def _cuda(machine: Machine, settings: Settings, allowed: int) -> Capacity:
    cards = 1
    while cards * 2 <= len(machine.gpus):
        cards *= 2  # layers are cut into so many equal parts
    memory = min(gpu.memory_bytes for gpu in machine.gpus) * cards
    level = _level("cuda", memory)
    usable = int(memory * settings.vllm_gpu_memory_utilization)
    speed = int(_READS * memory / 1e9)
    if any(gpu.unified for gpu in machine.gpus):
        usable, speed = min(usable, allowed), _UNIFIED
    return Capacity("cuda", level, usable, machine.memory_bytes, speed, cards)


def _level(device: DeviceName, memory: int) -> str:
    found = BELOW
    for level, least in zip((MINIMUM, RECOMMENDED, HIGH), _FROM[device], strict=True):
        if memory >= least * GIB * _NEARLY:
            found = level
    return found


def _apple(model: str) -> int:
    name = model.removeprefix("Apple ").strip()
    kind = name.partition(" ")[2].partition(" ")[0]
    return _APPLE.get(name) or _APPLE_NEXT.get(kind, _APPLE_NEXT[""])
