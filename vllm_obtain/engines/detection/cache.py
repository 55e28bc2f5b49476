"""Caches probe results on disk until packages are installed, removed or changed.

One small file per engine and interpreter, in the user's cache folder. Nothing here raises: a
cache that cannot be read or written counts as empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

import msgspec

from vllm_obtain import __version__
from vllm_obtain.engines.detection import probe
from vllm_obtain.engines.detection.run_probe import ProbeResult, environment_of
from vllm_obtain.fs import atomic_write
from vllm_obtain.hardware.machine import describe, driver

# Seconds that a failed probe is cached: the machine may have been busy.
TROUBLE_LASTS = 120.0
# Environment variables that affect what an interpreter or a driver finds.
_VARIABLES = (
    "PYTHONHOME PYTHONNOUSERSITE LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH CUDA_VISIBLE_DEVICES"
).split()


class CachedProbe(msgspec.Struct, frozen=True):
    """A probe result and what it depends on.

    Args:
        look: the result.
        token: `token` at the time of the probe.
        stamps: modification times of the package folders, in nanoseconds.
        until: Unix time in seconds at which it expires; None if it does not.
    """

    look: ProbeResult
    token: str
    stamps: dict[str, int]
    until: float | None

    def holds(self, engine: str, python: str) -> bool:
        """Whether the result is still valid."""
        if self.until is not None and not time.time() < self.until < time.time() + TROUBLE_LASTS:
            return False
        return self.token == token(engine, python) and self.stamps == _stamps(self.stamps)


def entry(engine: str, python: str, look: ProbeResult) -> CachedProbe:
    """Create a cache entry for a probe result."""
    places = {path for path in look.paths if "site-packages" in path or "dist-packages" in path}
    stamps = _stamps({*places, str(environment_of(python)), python})
    until = None if look.conclusive else time.time() + TROUBLE_LASTS
    return CachedProbe(look, token(engine, python), stamps, until)


def token(engine: str, python: str) -> str:
    """Return a fingerprint of what a result depends on beside the packages."""
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


def load(engine: str, python: str) -> CachedProbe | None:
    """Return the cached entry if it is still valid, else None."""
    try:
        cached = msgspec.json.decode(_file(engine, python).read_bytes(), type=CachedProbe)
    except (OSError, ValueError, RuntimeError):
        return None
    return cached if cached.holds(engine, python) else None


def save(engine: str, python: str, cached: CachedProbe) -> None:
    """Store an entry. The file is replaced atomically, so no reader sees a partial one."""
    with contextlib.suppress(OSError, RuntimeError):
        file = _file(engine, python)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write(file, msgspec.json.encode(cached))


def folder() -> Path:
    """Return the folder of the cache, which may not exist."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path.home() / ".cache"
    return base / "vllm-obtain"


def _file(engine: str, python: str) -> Path:
    name = hashlib.sha256(python.encode(errors="replace")).hexdigest()[:12]
    return folder() / f"{engine}-{name}.json"


def _stamps(paths: set[str] | dict[str, int]) -> dict[str, int]:
    return {path: _mtime(path) for path in paths}


def _mtime(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def _python_path() -> list[str]:
    """Return PYTHONPATH without our own folder, which the gateway adds for the supervisor."""
    ours = str(Path(__file__).parents[3])
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [path for path in dict.fromkeys(entries) if path and path != ours]


def _probe_source() -> bytes:
    try:
        return Path(probe.__file__).read_bytes()
    except OSError:
        return b""
