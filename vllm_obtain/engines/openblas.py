"""Where a fast BLAS is: mlx's wheel for CPUs links the reference one, 20 times slower at prompts.

Of models in floats of 32 bits, that is, which is why weights are turned into those.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

# Debian and Ubuntu, Fedora, Arch, Homebrew on Linux. Not those that pip's wheels bundle: they
# rename their functions.
PLACES = (
    "/usr/lib/*/openblas-pthread/libopenblas.so.0",
    "/usr/lib/*/libopenblas.so.0",
    "/usr/lib64/libopenblasp.so.0",
    "/usr/lib64/libopenblas.so.0",
    "/usr/lib/libopenblas.so*",
    "/usr/local/lib/libopenblas.so*",
)


def find(places: Iterable[str] = PLACES) -> Path | None:
    """Look for the library.

    Args:
        places: absolute patterns, the best one first.
    """
    for place in places:
        for found in sorted(Path("/").glob(place.removeprefix("/"))):
            if _loads(found):
                return found
    return None


@functools.cache
def _loads(library: Path) -> bool:
    """Try a library in another process: one that lacks a part of its own would end the engine."""
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    command = [sys.executable, "-S", "-E", "-c", code, str(library)]
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def preload(threads: int, places: Iterable[str] = PLACES) -> dict[str, str]:
    """Work out the variables that put it before a process's own BLAS; none if there is none.

    Args:
        threads: how many it may use.
        places: as for `find`.
    """
    before = os.environ.get("LD_PRELOAD", "")
    count = {"OPENBLAS_NUM_THREADS": str(max(1, threads))}
    if "openblas" in before:  # the owner's own choice
        return {"LD_PRELOAD": before, **count}
    library = find(places)
    if library is None:
        return {}
    return {"LD_PRELOAD": f"{library}:{before}" if before else str(library), **count}
