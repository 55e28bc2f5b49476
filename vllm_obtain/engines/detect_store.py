"""Keeps what probes found on disk, until something is installed, removed or changed.

One small file per engine and interpreter, in the user's cache folder. Nothing here raises: a
cache that cannot be read or written is no cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

import msgspec

from vllm_obtain import __version__
from vllm_obtain.engines import detect_probe
from vllm_obtain.engines.detect_look import Look, environment_of
from vllm_obtain.hardware import describe, driver

# What went wrong may have been a busy machine: a new process looks again after so many seconds.
TROUBLE_LASTS = 120.0
# Variables that decide what an interpreter or a driver shows.
_VARIABLES = (
    "PYTHONHOME PYTHONNOUSERSITE LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH CUDA_VISIBLE_DEVICES"
).split()


class Entry(msgspec.Struct, frozen=True):
    """A look and what it rests on.

    Args:
        look: what was found.
        token: `token` at that time.
        stamps: the folders of packages and when each had changed last, in nanoseconds.
        until: seconds since 1970 until which it counts; None for as long as the rest is the same.
    """

    look: Look
    token: str
    stamps: dict[str, int]
    until: float | None

    def holds(self, engine: str, python: str) -> bool:
        """Whether it still says what is so."""
        if self.until is not None and not time.time() < self.until < time.time() + TROUBLE_LASTS:
            return False
        return self.token == token(engine, python) and self.stamps == _stamps(self.stamps)


def entry(engine: str, python: str, look: Look) -> Entry:
    """Note what a look rests on."""
    places = {path for path in look.paths if "site-packages" in path or "dist-packages" in path}
    stamps = _stamps({*places, str(environment_of(python)), python})
    until = None if look.conclusive else time.time() + TROUBLE_LASTS
    return Entry(look, token(engine, python), stamps, until)


def token(engine: str, python: str) -> str:
    """Fingerprint what changes an answer beside the packages themselves."""
    machine = describe()
    parts = [
        __version__,
        engine,
        python,
        machine.system,
        machine.arch,
        repr(machine.gpus),
        driver() or "",
        *_python_path(),
        *(os.environ.get(name, "") for name in _VARIABLES),
    ]
    digest = hashlib.sha256("\0".join(parts).encode(errors="replace"))
    digest.update(_probe_source())
    return digest.hexdigest()[:16]


def load(engine: str, python: str) -> Entry | None:
    """Read an entry that still holds, or None."""
    try:
        found = msgspec.json.decode(_file(engine, python).read_bytes(), type=Entry)
    except (OSError, ValueError, RuntimeError):
        return None
    return found if found.holds(engine, python) else None


def save(engine: str, python: str, made: Entry) -> None:
    """Keep an entry; written beside and renamed, so that nobody reads half of it."""
    with contextlib.suppress(OSError, RuntimeError):
        file = _file(engine, python)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as half:
            half.write(msgspec.json.encode(made))
        os.replace(half.name, file)  # noqa: PTH105 - a name, not a Path


def folder() -> Path:
    """Name the folder of the cache; it need not exist."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if given.startswith("/") else Path.home() / ".cache"
    return base / "vllm-obtain"


def _file(engine: str, python: str) -> Path:
    name = hashlib.sha256(python.encode(errors="replace")).hexdigest()[:12]
    return folder() / f"{engine}-{name}.json"


def _stamps(places: set[str] | dict[str, int]) -> dict[str, int]:
    return {place: _changed(place) for place in places}


def _changed(place: str) -> int:
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:
        return 0


def _python_path() -> list[str]:
    """PYTHONPATH without our own folder, which the gateway puts there for the supervisor."""
    ours = str(Path(__file__).parents[2])
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [path for path in dict.fromkeys(given) if path and path != ours]


def _probe_source() -> bytes:
    try:
        return Path(detect_probe.__file__).read_bytes()
    except OSError:
        return b""
