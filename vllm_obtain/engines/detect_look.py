"""Runs a probe and reads what it says. Whatever the probe does, the answer is a `Look`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from vllm_obtain.engines import detect_probe

# Seconds a probe may take; importing torch does, on a busy machine with a slow disk.
DEADLINES = {"llama_cpp": 30, "mlx": 60, "vllm": 90}
_QUIET = {
    # As -P, which older interpreters do not know.
    "PYTHONSAFEPATH": "1",
    "PYTHONIOENCODING": "utf-8",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_SHOWN_ERROR = 300  # characters of a message that is not ours
_TORCHVISION = "torchvision::"


class Look(msgspec.Struct, frozen=True):
    """What a probe found out about an engine, whatever the settings are.

    Args:
        installed: whether its packages are there.
        version: of its package.
        devices: what it can compute on, the best first: metal, cuda, rocm, vulkan, cpu.
        error: why it cannot be used though it is installed, in a few words.
        prefix: the interpreter's virtual environment; empty when it is in none.
        pip: whether that has pip.
        paths: where that looks for packages.
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
        """Whether the answer stays right until something is installed or removed."""
        return self.error is None


def look(engine: str, python: str, deadline: float | None = None) -> Look:
    """Look at an engine in a process of its own.

    Args:
        engine: a key of `detect_probe.ENGINES`.
        python: the interpreter that would run it.
        deadline: seconds it may take; by the engine when left out.

    Returns:
        What it said until its end, or until the deadline.
    """
    seconds = deadline or DEADLINES[engine]
    alarm = str(int(seconds) + 5)
    try:
        process = subprocess.Popen(
            [python, "-u", detect_probe.__file__, engine, alarm],
            env={**os.environ, **_QUIET},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Look(error=f"{python} cannot be run: {getattr(error, 'strerror', None) or error}")
    return _listen(process, seconds)


def read(output: str, ending: str | None) -> Look:
    """Put together what a probe printed.

    Args:
        output: its standard output; lines that are not a probe's are left out.
        ending: how it ended, if not by itself and well.
    """
    found: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith(detect_probe.MARK):
            found |= _object(line.removeprefix(detect_probe.MARK))
    try:
        seen = msgspec.convert(found, Look)
    except msgspec.ValidationError:
        return Look(error="what looked at it printed something else than expected")
    if seen.error is None and not seen.devices and (seen.installed or "installed" not in found):
        why = ending or "what looked at it said nothing"
        return msgspec.structs.replace(seen, error=_shortened(why))
    return msgspec.structs.replace(seen, error=seen.error and _shortened(seen.error))


def _object(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _listen(process: subprocess.Popen[bytes], seconds: float) -> Look:
    try:
        out, complaints = process.communicate(timeout=seconds)
        ending = _ending(process.returncode, complaints.decode(errors="replace"))
    except subprocess.TimeoutExpired:
        # What it may have started itself goes too, and with it whoever holds the pipes.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        ending = f"it did not answer within {seconds:g} seconds"
    return read(out.decode(errors="replace"), ending)


def _ending(status: int, complaints: str) -> str | None:
    if status == 0:
        return None
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"importing it ends Python with {signal.Signals(-status).name}"
    last = next((line for line in reversed(complaints.splitlines()) if line.strip()), "")
    return f"importing it ends Python with status {status}" + (f": {last.strip()}" if last else "")


def _shortened(text: str) -> str:
    if _TORCHVISION in text:
        return "its torchvision does not match its torch, and text models need none"
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_ERROR else f"{line[:_SHOWN_ERROR]}…"


def environment_of(python: str) -> Path:
    """Where the configuration of an interpreter's environment would be; it need not exist."""
    return Path(python).parent.parent / "pyvenv.cfg"
