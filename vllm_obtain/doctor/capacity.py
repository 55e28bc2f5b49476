"""Capacity of a machine for models: usable memory, memory bandwidth and hardware tier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vllm_obtain.config.settings import Settings
from vllm_obtain.hardware.machine import DeviceName, Machine

GIB: Final = 2**30

BELOW, MINIMUM, RECOMMENDED, HIGH = "below minimum", "minimum", "recommended", "high-performance"
# Minimum GiB for each tier: memory of a Mac, of all NVIDIA GPUs together, of a machine without GPU.
_TIER_GIB: Final[dict[DeviceName, tuple[int, int, int]]] = {
    "mps": (16, 24, 64),
    "cuda": (8, 24, 48),
    "cpu": (8, 32, 64),
}
# Drivers and firmware reserve a part of the nominal memory.
_TIER_TOLERANCE: Final = 0.93

# Share of the memory that Metal makes available to the GPU, on Macs up to and above 36 GiB.
_METAL_SMALL, _METAL_LARGE, _LARGE = 2 / 3, 3 / 4, 36 * GIB
# Reserved for the system and other programs where models use the main memory.
_SYSTEM: Final = 2 * GIB

# Memory bandwidth in GB/s, from Apple's specifications. It limits the decode speed.
_APPLE: Final = {
    "M1": 68, "M1 Pro": 200, "M1 Max": 400, "M1 Ultra": 800,
    "M2": 100, "M2 Pro": 200, "M2 Max": 400, "M2 Ultra": 800,
    "M3": 100, "M3 Pro": 150, "M3 Max": 300, "M3 Ultra": 819,
    "M4": 120, "M4 Pro": 273, "M4 Max": 410,
}  # fmt: skip
_APPLE_NEXT: Final = {"": 120, "Pro": 250, "Max": 400, "Ultra": 800}
# Minimum bandwidth of a Mac in the highest tier, in GB/s.
_FAST_MAC: Final = 300
# Lower bound of bandwidth divided by memory size for NVIDIA GPUs, in 1/s.
_READS: Final = 18
_UNIFIED: Final = 270
# GB/s per core and of all cores. A single core reached 10 GB/s when measured.
_CORE, _ALL_CORES = 8, 60


@dataclass(frozen=True)
class Capacity:
    """Capacity of a machine for models.

    Args:
        device: device that engines use.
        level: hardware tier.
        memory: bytes available to all models together.
        ram: bytes of main memory.
        bandwidth: approximate memory bandwidth in GB/s.
        cards: number of GPUs that a model is split over.
    """

    device: DeviceName
    level: str
    memory: int
    ram: int
    bandwidth: int
    cards: int = 1


def capacity(machine: Machine, settings: Settings) -> Capacity:
    """Compute the capacity of a machine.

    Args:
        machine: hardware of the machine.
        settings: give the memory limits.
    """
    ram = machine.memory_bytes
    allowed = int(settings.memory_limit * (ram if settings.memory_limit <= 1 else 1))
    device: DeviceName = "cpu" if settings.device_type == "cpu" else machine.device
    if device == "mps":
        metal = _METAL_LARGE if ram > _LARGE else _METAL_SMALL
        memory = min(allowed, int(ram * min(settings.mlx_memory_fraction, metal)))
        speed = _apple_bandwidth(machine.cpu_model)
        level = _level(device, ram)
        if level == HIGH and speed < _FAST_MAC:
            level = RECOMMENDED
        return Capacity(device, level, memory, ram, speed)
    if device == "cuda":
        return _cuda(machine, settings, allowed)
    memory = max(0, min(allowed, ram - _SYSTEM))
    speed = min(_ALL_CORES, _CORE * machine.cores_physical)
    return Capacity(device, _level(device, ram), memory, ram, speed)


def _cuda(machine: Machine, settings: Settings, allowed: int) -> Capacity:
    cards = 1
    while cards * 2 <= len(machine.gpus):
        cards *= 2  # tensor parallelism needs a power of two
    memory = min(gpu.memory_bytes for gpu in machine.gpus) * cards
    level = _level("cuda", memory)
    usable = int(memory * settings.vllm_gpu_memory_utilization)
    speed = int(_READS * memory / 1e9)
    if any(gpu.unified for gpu in machine.gpus):
        usable, speed = min(usable, allowed), _UNIFIED
    return Capacity("cuda", level, usable, machine.memory_bytes, speed, cards)


def _level(device: DeviceName, memory: int) -> str:
    result = BELOW
    for level, minimum in zip((MINIMUM, RECOMMENDED, HIGH), _TIER_GIB[device], strict=True):
        if memory >= minimum * GIB * _TIER_TOLERANCE:
            result = level
    return result


def _apple_bandwidth(model: str) -> int:
    name = model.removeprefix("Apple ").strip()
    variant = name.partition(" ")[2].partition(" ")[0]
    return _APPLE.get(name) or _APPLE_NEXT.get(variant, _APPLE_NEXT[""])
