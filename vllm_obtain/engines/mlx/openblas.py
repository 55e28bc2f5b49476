"""Finds a fast BLAS. mlx's CPU package links the reference BLAS, 20 times slower in prefill.

That holds for float32 weights, which is why weights are converted to float32.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

# Debian and Ubuntu, Fedora, Arch, Homebrew on Linux. Libraries in pip packages do not work: they
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
    """Return the first OpenBLAS library that can be loaded, or None.

    Args:
        places: absolute glob patterns, the preferred one first.
    """
    for place in places:
        for library in sorted(Path("/").glob(place.removeprefix("/"))):
            if _is_loadable(library):
                return library
    return None


@functools.cache
def _is_loadable(library: Path) -> bool:
    """Load a library in another process: a broken one would end the engine."""
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    command = [sys.executable, "-S", "-E", "-c", code, str(library)]
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def preload(threads: int, places: Iterable[str] = PLACES) -> dict[str, str]:
    """Return the variables that preload OpenBLAS into a process; empty if there is none.

    Args:
        threads: number of threads it may use.
        places: as for `find`.
    """
    before = os.environ.get("LD_PRELOAD", "")
    count = {"OPENBLAS_NUM_THREADS": str(max(1, threads))}
    if "openblas" in before:  # the operator's choice
        return {"LD_PRELOAD": before, **count}
    library = find(places)
    if library is None:
        return {}
    return {"LD_PRELOAD": f"{library}:{before}" if before else str(library), **count}
