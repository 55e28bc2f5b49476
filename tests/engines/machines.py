"""Machines that tests cannot run on, as they describe themselves, and what probes found there."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_obtain.engines import registry
from vllm_obtain.engines.detection import cache as probe_cache
from vllm_obtain.engines.detection import detect
from vllm_obtain.engines.detection.install_hints import Host
from vllm_obtain.engines.detection.run_probe import ProbeResult
from vllm_obtain.hardware import host as host_info
from vllm_obtain.hardware.machine import GPU, Machine, describe_mac

GIB = 2**30

_M4_MAX = """\
machdep.cpu.brand_string: Apple M4 Max
hw.memsize: 137438953472
hw.physicalcpu: 16
hw.logicalcpu: 16
hw.perflevel0.physicalcpu: 12
"""
_INTEL_MAC = """\
machdep.cpu.brand_string: Intel(R) Core(TM) i9-9980HK CPU @ 2.40GHz
hw.memsize: 34359738368
hw.physicalcpu: 8
hw.logicalcpu: 16
"""


_CHIP = """\
machdep.cpu.brand_string: Apple {chip}
hw.memsize: {memory}
hw.physicalcpu: {cores}
hw.logicalcpu: {cores}
hw.perflevel0.physicalcpu: {fast}
"""


def apple(chip: str, gib: int, cores: int, fast: int) -> Host:
    """A Mac of Apple's own chips, by what its sysctl says."""
    text = _CHIP.format(chip=chip, memory=gib * GIB, cores=cores, fast=fast)
    return _mac("arm64", text, "15.1")


def linux(gib: int, cores: int, *gpus: GPU) -> Host:
    """A Linux of that much memory."""
    machine = Machine("Linux", "x86_64", "AMD EPYC 9654", cores, 2 * cores, cores, gib * GIB, gpus)
    return Host(machine, "", "2.36", "580.95.05" if gpus else None)


def _mac(arch: str, text: str, version: str) -> Host:
    return Host(describe_mac(arch, host_info.parse_pairs(text), 0), version)


def _linux(arch: str, cpu: str, *gpus: GPU, glibc: str = "2.36", driver: str | None = None) -> Host:
    return Host(Machine("Linux", arch, cpu, 8, 16, 8, 64 * GIB, gpus), "", glibc, driver)


MAC_STUDIO = _mac("arm64", _M4_MAX, "15.1")
OLD_MAC = _mac("arm64", _M4_MAX, "13.6.1")
ROSETTA = _mac("x86_64", _M4_MAX, "15.1")
INTEL_MAC = _mac("x86_64", _INTEL_MAC, "14.7")
_H200 = GPU("NVIDIA H200", 141 * GIB)
H200 = _linux("x86_64", "Intel Xeon Platinum 8480", _H200, driver="580.95.05")
RTX4090 = _linux(
    "x86_64",
    "AMD Ryzen 9 7950X",
    GPU("NVIDIA GeForce RTX 4090", 24 * GIB),
    glibc="2.35",
    driver="550.120",
)
PLAIN = _linux("x86_64", "AMD EPYC 9654")
ARM = _linux("aarch64", "aarch64 (implementer 0x41, part 0xd0c)")
RISCV = _linux("riscv64", "riscv64")
ALPINE = _linux("x86_64", "AMD EPYC 9654", glibc="")
OLD_LINUX = _linux("x86_64", "AMD EPYC 9654", glibc="2.31")
BSD = Host(Machine("FreeBSD", "amd64", "AMD EPYC 9654", 8, 16, 8, 64 * GIB))

LLAMA_METAL = ProbeResult(True, "2026.10.11549", ("metal", "cpu"))
LLAMA_CPU = ProbeResult(True, "2026.10.11549", ("cpu",))
LLAMA_CUDA = ProbeResult(True, "2026.10.11549", ("cuda", "cpu"))
MLX_METAL = ProbeResult(True, "0.32.2", ("metal", "cpu"))
MLX_CPU = ProbeResult(True, "0.32.2", ("cpu",))
VLLM_CUDA = ProbeResult(True, "0.33.0", ("cuda",))
VLLM_CPU = ProbeResult(True, "0.32.0", ("cpu",))


def pretend(monkeypatch: pytest.MonkeyPatch, host: Host, **looks: ProbeResult) -> None:
    """Have detection see this machine, and these engines on it; others are not installed."""

    def looked(engine: str, python: str, deadline: Any = None) -> ProbeResult:
        return looks.get(engine, ProbeResult())

    monkeypatch.setattr(detect, "_known", {})
    monkeypatch.setattr(detect, "host", lambda: host)
    monkeypatch.setattr(detect, "run_probe", looked)
    monkeypatch.setattr(probe_cache, "load", lambda *_: None)
    monkeypatch.setattr(probe_cache, "save", lambda *_: None)
    monkeypatch.setattr(registry, "describe", lambda: host.machine)
