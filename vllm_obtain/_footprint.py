"""How much memory a process really takes. Part of `hardware.py`."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from vllm_obtain import _host

_RUSAGE_INFO_V4 = 4
_PHYS_FOOTPRINT = 9  # rusage_info_v4: a uuid (two words of 64 bits), then seven words before it


def process_memory(pid: int) -> int | None:
    """Measure a process and all its children.

    Linux: PSS, in which a shared page counts once over all who share it (RSS counts it in each).
    macOS: the physical footprint, with Metal's buffers (RSS leaves them out). RSS where neither
    can be read. Takes milliseconds for a large process: not for the path of a request.

    Args:
        pid: the process at the top of the tree.

    Returns:
        Bytes, or None where there is no such process.
    """
    return _tree(pid, _one)


def most_memory(pid: int) -> int | None:
    """Measure quickly what a process and all its children take at most.

    To add up PSS the kernel walks all pages of a process: 19 ms for 1.6 GB, and half a second for
    the weights of a large model. RSS is never less and costs next to nothing. On macOS it can be
    less, and the footprint is as quick.

    Args:
        pid: the process at the top of the tree.

    Returns:
        Bytes, or None where there is no such process.
    """
    return _tree(pid, _one if sys.platform == "darwin" else _rss)


def _tree(pid: int, measure: Callable[[psutil.Process], int | None]) -> int | None:
    try:
        top = psutil.Process(pid)
        tree = [top, *_children(top)]
    except (psutil.Error, OSError, ValueError, OverflowError, TypeError):
        return None
    sizes = [size for size in map(measure, tree) if size is not None]
    return sum(sizes) if sizes else None


def parse_smaps_rollup(text: str) -> int | None:
    """Return the proportional set size in bytes; None where the text has none.

    Args:
        text: /proc/<pid>/smaps_rollup; empty for a zombie or a process of someone else.
    """
    value, _, unit = _host.parse_pairs(text).get("Pss", "").partition(" ")
    return int(value) * 1024 if value.isdecimal() and unit == "kB" else None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except (psutil.Error, OSError):
        return []


def _one(process: psutil.Process) -> int | None:
    if sys.platform == "darwin":
        size = _phys_footprint(process.pid)
    else:
        size = parse_smaps_rollup(_host.read(Path(f"/proc/{process.pid}/smaps_rollup")))
    return _rss(process) if size is None else size


def _rss(process: psutil.Process) -> int | None:
    try:
        return int(process.memory_info().rss)
    except (psutil.Error, OSError):
        return None


def _phys_footprint(pid: int) -> int | None:
    try:
        words = (ctypes.c_uint64 * 64)()  # more than any version of the struct has
        failed = _libproc().proc_pid_rusage(pid, _RUSAGE_INFO_V4, ctypes.byref(words))
    except (OSError, AttributeError, ctypes.ArgumentError):
        return None
    return None if failed else int(words[_PHYS_FOOTPRINT])


@cache
def _libproc() -> Any:
    library = ctypes.CDLL("/usr/lib/libproc.dylib")
    library.proc_pid_rusage.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    library.proc_pid_rusage.restype = ctypes.c_int
    return library
