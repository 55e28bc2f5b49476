"""Detects which engines this machine can run, without importing any of them here.

One probe process per engine looks (`probe.py`), its result is cached on disk (`cache.py`) and in
each process. Only the first query waits for a probe, and `warm` makes it at startup. Later changes
are detected in the background.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.detection import cache as probe_cache
from vllm_obtain.engines.detection.install_hints import host
from vllm_obtain.engines.detection.probe import ENGINES
from vllm_obtain.engines.detection.run_probe import ProbeResult, run_probe
from vllm_obtain.engines.detection.verdict import EngineAvailability, evaluate
from vllm_obtain.logs.setup import get_logger

__all__ = ["facts", "forget", "host", "interpreter", "snapshot", "warm"]

log = get_logger("vllm_obtain.detect")

# Seconds between two checks for installed or removed packages.
INTERVAL = 30.0
# The same after a failed probe, which takes up to 90 seconds of the machine's time.
TROUBLE_INTERVAL = 600.0


@dataclass
class _Known:
    """What this process knows of an engine; only one thread at a time runs its probe."""

    entry: probe_cache.CachedProbe | None = None
    checked: float = 0.0
    probing: threading.Lock = field(default_factory=threading.Lock)


_known: dict[tuple[str, str], _Known] = {}


def facts(engine: str, settings: Settings) -> EngineAvailability:
    """Return the availability of a built-in engine; only the first call waits for its probe.

    Args:
        engine: llama_cpp, mlx or vllm.
        settings: the settings of the service.
    """
    python = interpreter(engine, settings)
    known = _known.setdefault((engine, python), _Known())
    if known.entry is None:
        with known.probing:
            if known.entry is None:
                _refresh(known, engine, python)
    elif time.monotonic() - known.checked > _interval(known.entry.look):
        _refresh_in_background(known, engine, python)
    assert known.entry is not None  # noqa: S101 - by _refresh
    return _evaluated(engine, known.entry.look, settings, python)


def warm(engines: Iterable[str], settings: Settings, fresh: bool = False) -> None:
    """Probe several engines in parallel, before a request needs them.

    Args:
        engines: names; those of plugins are ignored.
        settings: the settings of the service.
        fresh: whether to probe again even if a result is cached.
    """
    names = [name for name in engines if name in ENGINES]
    work = _probe_again if fresh else facts
    threads = [threading.Thread(target=work, args=(name, settings)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def snapshot(settings: Settings) -> list[EngineAvailability]:
    """Return the availability of all built-in engines, without waiting for a probe.

    Engines without a result are probed in the background and reported as being detected.
    """
    found = []
    for engine in ENGINES:
        python = interpreter(engine, settings)
        known = _known.setdefault((engine, python), _Known())
        if known.entry is None:
            known.entry = probe_cache.load(engine, python)
        if known.entry is None:
            _refresh_in_background(known, engine, python)
            found.append(
                EngineAvailability(engine, False, reason="Detection is running.", python=python)
            )
        else:
            found.append(facts(engine, settings))
    return found


def forget() -> None:
    """Clear what this process knows; the cache on disk stays."""
    _known.clear()
    host.cache_clear()


def interpreter(engine: str, settings: Settings) -> str:
    """Return the path of the interpreter that runs an engine."""
    if engine != "vllm" or not settings.vllm_python:
        return sys.executable
    # Not resolved: a virtual environment's python is a link to one without its packages.
    return str(Path(settings.vllm_python).expanduser().absolute())


def _interval(result: ProbeResult) -> float:
    return INTERVAL if result.conclusive else TROUBLE_INTERVAL


def _evaluated(
    engine: str, result: ProbeResult, settings: Settings, python: str
) -> EngineAvailability:
    own = settings.vllm_python if engine == "vllm" else ""
    return evaluate(engine, result, settings.device_type, host(), own, python)


def _probe_again(engine: str, settings: Settings) -> None:
    python = interpreter(engine, settings)
    known = _known.setdefault((engine, python), _Known())
    with known.probing:
        _probe(known, engine, python)


def _refresh_in_background(known: _Known, engine: str, python: str) -> None:
    """Start a thread that checks for changes, unless one is running."""
    if known.probing.acquire(blocking=False):
        known.checked = time.monotonic()

        def work() -> None:
            try:
                _refresh(known, engine, python)
            finally:
                known.probing.release()

        threading.Thread(target=work, daemon=True, name=f"probe-{engine}").start()


def _refresh(known: _Known, engine: str, python: str) -> None:
    """Update an entry from memory, from disk, or by a probe."""
    known.checked = time.monotonic()
    if known.entry is not None and known.entry.holds(engine, python):
        return
    if (stored := probe_cache.load(engine, python)) is not None:
        known.entry = stored
    else:
        _probe(known, engine, python)


def _probe(known: _Known, engine: str, python: str) -> None:
    """Run a probe and store its result."""
    began = time.monotonic()
    result = run_probe(engine, python)
    known.entry, known.checked = probe_cache.entry(engine, python, result), time.monotonic()
    probe_cache.save(engine, python, known.entry)
    log.info(
        "engine detected" if result.installed else "engine not detected",
        engine=engine,
        installed=result.installed,
        version=result.version,
        devices=list(result.devices),
        reason=result.error,
        seconds=round(time.monotonic() - began, 2),
    )
