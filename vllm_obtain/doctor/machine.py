"""Description of the machine as rows of a table."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.detection import detect
from vllm_obtain.engines.detection.install_hints import Host
from vllm_obtain.hardware import host as host_info
from vllm_obtain.hardware import machine as hardware
from vllm_obtain.hardware.machine import GPU, Machine

GIB = 2**30
WIRED_LIMIT = "iogpu.wired_limit_mb"
_BUILD = "kern.osversion"


def rows(settings: Settings, dotenv: Path) -> dict[str, str]:
    """Describe the machine: labels and values in display order."""
    host = detect.host()
    values = {
        "System": system(host, platform.release(), _distribution()),
        "Processor": processor(host.machine),
        "Memory": _memory(host.machine),
        "GPU": gpus(host),
    }
    if host.machine.system == "Darwin":
        values |= mac(host, sysctl_values())
    return values | {
        "Python": f"{platform.python_version()}, {sys.executable}",
        "Models": _models(settings.models_dir),
        "Settings": str(dotenv.absolute()) if dotenv.is_file() else "no .env file",
    }


def sysctl_values() -> dict[str, str]:
    """Read the macOS build and the wired memory limit of the GPU."""
    return host_info.sysctl([_BUILD, WIRED_LIMIT])


def system(host: Host, release: str, distribution: str) -> str:
    """Describe the operating system.

    Args:
        host: the machine.
        release: kernel release.
        distribution: name of the Linux distribution; empty if unknown.
    """
    if host.machine.system == "Darwin":
        return f"macOS {host.os_version} on {host.machine.arch}"
    parts = [distribution or host.machine.system, f"on {host.machine.arch}, kernel {release}"]
    if is_wsl(release):
        parts.append("(WSL on Windows)")
    return " ".join(parts)


def is_wsl(release: str) -> bool:
    """Whether a kernel release belongs to the Windows Subsystem for Linux."""
    return "microsoft" in release.lower()


def processor(machine: Machine) -> str:
    """Describe the processor and its cores."""
    fast = machine.performance_cores
    cores = f"{machine.cores_physical} cores"
    if fast < machine.cores_physical:
        cores += f" ({fast} performance cores)"
    return f"{machine.cpu_model}, {cores}"


def gpus(host: Host) -> str:
    """Describe the GPUs that engines can use."""
    if not host.machine.gpus:
        return "none supported (needs Apple silicon or NVIDIA)"
    names = ", ".join(_gpu(gpu) for gpu in host.machine.gpus)
    return f"{names}, driver {host.driver}" if host.driver else names


def mac(host: Host, values: Mapping[str, str]) -> dict[str, str]:
    """Describe properties of Macs.

    Args:
        host: the machine.
        values: sysctl values; names may be missing.
    """
    described = {}
    if build := values.get(_BUILD):
        described["macOS build"] = build
    if host.machine.gpus and WIRED_LIMIT in values:
        limit = host_info.number(values[WIRED_LIMIT])
        text = f"{limit} MB, set manually" if limit else "0, macOS default"
        described["GPU wired limit"] = f"{text} ({WIRED_LIMIT})"
    return described


def _gpu(gpu: GPU) -> str:
    if gpu.unified:
        return f"{gpu.name} (unified memory)"
    return f"{gpu.name} ({gpu.memory_bytes / GIB:.0f} GiB)"


def _memory(machine: Machine) -> str:
    total = machine.memory_bytes
    free = hardware.sample().get("memory_available_bytes")
    text = f"{total / GIB:.0f} GiB"
    if free is not None:
        text += f", {free / GIB:.1f} GiB free"
    physical = psutil.virtual_memory().total
    limited = f"{text} (container limit; the host has {physical / GIB:.0f} GiB)"
    return limited if total < physical else text


def _models(folder: Path) -> str:
    existing = next((level for level in (folder, *folder.parents) if level.exists()), Path("/"))
    try:
        free = f", {shutil.disk_usage(existing).free / GIB:.0f} GiB free on disk"
    except OSError:
        free = ""
    return f"{folder}{'' if folder.exists() else ' (does not exist yet)'}{free}"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""
