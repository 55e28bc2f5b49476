"""What this machine is, as rows of a table."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from vllm_obtain import _host, hardware
from vllm_obtain.engines import detect
from vllm_obtain.engines.detect_install import Host
from vllm_obtain.hardware import GPU, Machine
from vllm_obtain.settings import Settings

GIB = 2**30
WIRED_LIMIT = "iogpu.wired_limit_mb"
_BUILD = "kern.osversion"


def rows(settings: Settings, dotenv: Path) -> dict[str, str]:
    """Describe the machine by name, in the order in which to read it."""
    on = detect.host()
    found = {
        "System": system(on, platform.release(), _distribution()),
        "Processor": processor(on.machine),
        "Memory": _memory(on.machine),
        "GPU": gpus(on),
    }
    if on.machine.system == "Darwin":
        found |= mac(on, asked())
    return found | {
        "Python": f"{platform.python_version()}, {sys.executable}",
        "Models": _models(settings.models_dir),
        "Settings": str(dotenv.absolute()) if dotenv.is_file() else "no .env file here",
    }


def asked() -> dict[str, str]:
    """Ask macOS for its build and the limit of what the GPU may take."""
    return _host.sysctl([_BUILD, WIRED_LIMIT])


def system(on: Host, release: str, distribution: str) -> str:
    """Name the system.

    Args:
        on: the machine.
        release: of the kernel.
        distribution: of a Linux, or empty.
    """
    if on.machine.system == "Darwin":
        return f"macOS {on.os_version} on {on.machine.arch}"
    words = [distribution or on.machine.system, f"on {on.machine.arch}, kernel {release}"]
    if is_wsl(release):
        words.append("(WSL on Windows)")
    return " ".join(words)


def is_wsl(release: str) -> bool:
    """Whether a kernel is that of the Windows Subsystem for Linux."""
    return "microsoft" in release.lower()


def processor(machine: Machine) -> str:
    """Name the processor and its cores."""
    fast = machine.performance_cores
    cores = f"{machine.cores_physical} cores"
    if fast < machine.cores_physical:
        cores += f", {fast} of them fast"
    return f"{machine.cpu_model}, {cores}"


def gpus(on: Host) -> str:
    """Name the GPUs that engines can use."""
    if not on.machine.gpus:
        return "none that engines can use (Apple Silicon's or NVIDIA's)"
    found = ", ".join(_gpu(gpu) for gpu in on.machine.gpus)
    return f"{found}, driver {on.driver}" if on.driver else found


def mac(on: Host, values: Mapping[str, str]) -> dict[str, str]:
    """Describe what only a Mac has.

    Args:
        on: the machine.
        values: what sysctl answered; names may be missing.
    """
    found = {}
    if build := values.get(_BUILD):
        found["macOS build"] = build
    if on.machine.gpus and WIRED_LIMIT in values:
        limit = _host.number(values[WIRED_LIMIT])
        said = f"{limit} MB, set by hand" if limit else "0: macOS decides"
        found["GPU wired limit"] = f"{said} ({WIRED_LIMIT})"
    return found


def _gpu(gpu: GPU) -> str:
    if gpu.unified:
        return f"{gpu.name}, shares the memory"
    return f"{gpu.name} with {gpu.memory_bytes / GIB:.0f} GiB"


def _memory(machine: Machine) -> str:
    total = machine.memory_bytes
    free = hardware.sample().get("memory_available_bytes")
    said = f"{total / GIB:.0f} GiB"
    if free is not None:
        said += f", {free / GIB:.1f} GiB of it free now"
    physical = psutil.virtual_memory().total
    return f"{said} (a container's share of {physical / GIB:.0f})" if total < physical else said


def _models(folder: Path) -> str:
    place = next((level for level in (folder, *folder.parents) if level.exists()), Path("/"))
    try:
        free = f", {shutil.disk_usage(place).free / GIB:.0f} GiB free on its disk"
    except OSError:
        free = ""
    return f"{folder}{'' if folder.exists() else ' (not there yet)'}{free}"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""
