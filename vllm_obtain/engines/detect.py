"""Which engines this machine can run, found without importing any of them here.

A probe process per engine finds out (`detect_probe.py`), the disk remembers (`detect_store.py`),
and each process keeps what it has read. Only the first question can wait for a probe, and `warm`
asks it at the start; later, changes are looked for in the background.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vllm_obtain.engines import detect_store
from vllm_obtain.engines.detect_install import host
from vllm_obtain.engines.detect_judge import Facts, judge
from vllm_obtain.engines.detect_look import Look, look
from vllm_obtain.engines.detect_probe import ENGINES
from vllm_obtain.log import get_logger
from vllm_obtain.settings import Settings

__all__ = ["facts", "forget", "host", "interpreter", "snapshot", "warm"]

log = get_logger("vllm_obtain.detect")

# Seconds between two looks at whether something was installed or removed.
INTERVAL = 30.0
# The same where the last look went wrong; each costs the machine up to a minute and a half.
TROUBLE_INTERVAL = 600.0


@dataclass
class _Known:
    """What this process knows of an engine; one thread at a time asks its probe."""

    entry: detect_store.Entry | None = None
    checked: float = 0.0
    asking: threading.Lock = field(default_factory=threading.Lock)


_known: dict[tuple[str, str], _Known] = {}


def facts(engine: str, settings: Settings) -> Facts:
    """Say what is known of a built-in engine; waits for its probe only if nothing is known yet.

    Args:
        engine: llama_cpp, mlx or vllm.
        settings: the owner's settings.
    """
    python = interpreter(engine, settings)
    known = _known.setdefault((engine, python), _Known())
    if known.entry is None:
        with known.asking:
            if known.entry is None:
                _refresh(known, engine, python)
    elif time.monotonic() - known.checked > _interval(known.entry.look):
        _start(known, engine, python)
    assert known.entry is not None  # noqa: S101 - by _refresh
    return _judged(engine, known.entry.look, settings, python)


def warm(engines: Iterable[str], settings: Settings, fresh: bool = False) -> None:
    """Find out about several engines at once, before somebody waits for the answer.

    Args:
        engines: names; those that are not built in are left out.
        settings: the owner's settings.
        fresh: whether to look again, whatever is known.
    """
    names = [name for name in engines if name in ENGINES]
    work = _look_again if fresh else facts
    threads = [threading.Thread(target=work, args=(name, settings)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def snapshot(settings: Settings) -> list[Facts]:
    """Say what is known of all built-in engines, without waiting for a probe.

    What is not known yet is looked for in the background, and said to be.
    """
    found = []
    for engine in ENGINES:
        python = interpreter(engine, settings)
        known = _known.setdefault((engine, python), _Known())
        if known.entry is None:
            known.entry = detect_store.load(engine, python)
        if known.entry is None:
            _start(known, engine, python)
            found.append(Facts(engine, False, reason="It is being looked for.", python=python))
        else:
            found.append(facts(engine, settings))
    return found


def forget() -> None:
    """Forget what this process knows; what is on disk stays."""
    _known.clear()
    host.cache_clear()


def interpreter(engine: str, settings: Settings) -> str:
    """Name the interpreter that runs an engine."""
    if engine != "vllm" or not settings.vllm_python:
        return sys.executable
    # Not resolved: an environment's python is a link, and what it links to has no packages.
    return str(Path(settings.vllm_python).expanduser().absolute())


def _interval(seen: Look) -> float:
    return INTERVAL if seen.conclusive else TROUBLE_INTERVAL


def _judged(engine: str, seen: Look, settings: Settings, python: str) -> Facts:
    own = settings.vllm_python if engine == "vllm" else ""
    return judge(engine, seen, settings.device_type, host(), own, python)


def _look_again(engine: str, settings: Settings) -> None:
    python = interpreter(engine, settings)
    known = _known.setdefault((engine, python), _Known())
    with known.asking:
        _ask(known, engine, python)


def _start(known: _Known, engine: str, python: str) -> None:
    """Look for changes in the background, unless somebody does."""
    if known.asking.acquire(blocking=False):
        known.checked = time.monotonic()

        def work() -> None:
            try:
                _refresh(known, engine, python)
            finally:
                known.asking.release()

        threading.Thread(target=work, daemon=True, name=f"probe-{engine}").start()


def _refresh(known: _Known, engine: str, python: str) -> None:
    """Bring what is known up to date: from memory, from disk, or from a probe."""
    known.checked = time.monotonic()
    if known.entry is not None and known.entry.holds(engine, python):
        return
    if (stored := detect_store.load(engine, python)) is not None:
        known.entry = stored
    else:
        _ask(known, engine, python)


def _ask(known: _Known, engine: str, python: str) -> None:
    """Have a probe look, and keep what it finds."""
    began = time.monotonic()
    seen = look(engine, python)
    known.entry, known.checked = detect_store.entry(engine, python, seen), time.monotonic()
    detect_store.save(engine, python, known.entry)
    log.info(
        "looked for an engine",
        engine=engine,
        installed=seen.installed,
        version=seen.version,
        devices=list(seen.devices),
        reason=seen.error,
        seconds=round(time.monotonic() - began, 2),
    )
