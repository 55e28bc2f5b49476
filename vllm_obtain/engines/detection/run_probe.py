"""Runs a probe process and parses its output. Every outcome becomes a `ProbeResult`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from vllm_obtain.engines.detection import probe

# Timeout of a probe in seconds; importing torch is slow on a busy machine with a slow disk.
DEADLINES = {"llama_cpp": 30, "mlx": 60, "vllm": 90}
_QUIET = {
    # Same as -P, which older interpreters lack.
    "PYTHONSAFEPATH": "1",
    "PYTHONIOENCODING": "utf-8",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_SHOWN_ERROR = 300  # characters shown of an engine's error message
_TORCHVISION = "torchvision::"


class ProbeResult(msgspec.Struct, frozen=True):
    """The result of a probe, independent of the settings.

    Args:
        installed: whether the packages are installed.
        version: version of the package.
        devices: supported devices, the best first: metal, cuda, rocm, vulkan, cpu.
        error: why an installed engine cannot be used, in a few words.
        prefix: the interpreter's virtual environment; empty if there is none.
        pip: whether the interpreter has pip.
        paths: the interpreter's search path for packages.
    """

    installed: bool = False
    version: str | None = None
    devices: tuple[str, ...] = ()
    error: str | None = None
    prefix: str = ""
    pip: bool = True
    paths: tuple[str, ...] = ()

    @property
    def conclusive(self) -> bool:
        """Whether the result is valid until packages are installed or removed."""
        return self.error is None


def run_probe(engine: str, python: str, deadline: float | None = None) -> ProbeResult:
    """Probe an engine in a separate process.

    Args:
        engine: a key of `probe.ENGINES`.
        python: the interpreter that would run it.
        deadline: timeout in seconds; the default depends on the engine.

    Returns:
        What the probe printed until its end or the deadline.
    """
    seconds = deadline or DEADLINES[engine]
    alarm = str(int(seconds) + 5)
    try:
        process = subprocess.Popen(
            [python, "-u", probe.__file__, engine, alarm],
            env={**os.environ, **_QUIET},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return ProbeResult(
            error=f"cannot run {python}: {getattr(error, 'strerror', None) or error}"
        )
    return _collect(process, seconds)


def read(output: str, ending: str | None) -> ProbeResult:
    """Parse the output of a probe.

    Args:
        output: standard output; lines without MARK are ignored.
        ending: why the process did not end normally, or None.
    """
    fields: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith(probe.MARK):
            fields |= _object(line.removeprefix(probe.MARK))
    try:
        result = msgspec.convert(fields, ProbeResult)
    except msgspec.ValidationError:
        return ProbeResult(error="the probe printed unexpected output")
    expects_devices = result.installed or "installed" not in fields
    if result.error is None and not result.devices and expects_devices:
        why = ending or "the probe printed nothing"
        return msgspec.structs.replace(result, error=_shortened(why))
    return msgspec.structs.replace(result, error=result.error and _shortened(result.error))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _collect(process: subprocess.Popen[bytes], seconds: float) -> ProbeResult:
    try:
        out, errors = process.communicate(timeout=seconds)
        ending = _ending(process.returncode, errors.decode(errors="replace"))
    except subprocess.TimeoutExpired:
        # Child processes of the probe hold the pipes open, so the whole group is killed.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        ending = f"it did not respond within {seconds:g} seconds"
    return read(out.decode(errors="replace"), ending)


def _ending(status: int, errors: str) -> str | None:
    if status == 0:
        return None
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"importing it kills Python with {signal.Signals(-status).name}"
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
    suffix = f": {last.strip()}" if last else ""
    return f"importing it ends Python with exit status {status}{suffix}"


def _shortened(text: str) -> str:
    if _TORCHVISION in text:
        return "its torchvision does not match its torch, and text models do not need torchvision"
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_ERROR else f"{line[:_SHOWN_ERROR]}…"


def environment_of(python: str) -> Path:
    """Return the path of the configuration of an interpreter's environment; it may not exist."""
    return Path(python).parent.parent / "pyvenv.cfg"
