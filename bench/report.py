"""Writes results to the terminal and to files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.checks import Check
from vllm_obtain.hardware.machine import describe

_PACKAGES = ("vllm-obtain", "xllamacpp", "gunicorn", "gevent", "flask", "msgspec", "httptools")
_PACKAGES += ("mlx", "mlx-lm")
_VERDICTS = {True: "PASS", False: "FAIL", None: ""}
_STYLES = {True: "green", False: "bold red", None: ""}


def machine() -> str:
    """Describe the hardware of this machine."""
    found = describe()
    arch = {"x86_64": "x86-64"}.get(found.arch, found.arch) + _vector_units()
    gpus = ", ".join(gpu.name for gpu in found.gpus) or "no GPU"
    memory = f"{found.memory_bytes / 2**30:.0f} GiB"
    return f"{found.cores_logical} cores {arch}, {memory}, {gpus}, {found.system}"


def software() -> dict[str, str]:
    """Return the versions of the software."""
    python = ".".join(map(str, sys.version_info[:3]))
    found = {name: _version(name) for name in _PACKAGES}
    return {"python": python} | {name: number for name, number in found.items() if number}


def show(checks: Sequence[Check]) -> None:
    """Print the table."""
    table = Table(title=f"vllm-obtain on {machine()}")
    for title in ("metric", "expected", "target", "result", ""):
        table.add_column(title, overflow="fold")
    for check in checks:
        table.add_row(
            check.metric,
            check.expected,
            check.target,
            check.result,
            Text(_VERDICTS[check.ok], _STYLES[check.ok]),
        )
    # Wide enough for one line per row if there is no terminal.
    console = Console() if sys.stdout.isatty() else Console(width=130)
    console.print(table)


def write(path: Path, plan: Any, figures: dict[str, Any], checks: Sequence[Check]) -> None:
    """Write everything as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine(),
        "software": software(),
        "plan": plan,
        "checks": [check.as_dict() for check in checks],
        **figures,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def markdown(path: Path, checks: Sequence[Check]) -> None:
    """Write the table as Markdown."""
    rows = [("metric", "expected", "target", "result", "verdict"), ("---",) * 5]
    rows += [(c.metric, c.expected, c.target, c.result, _VERDICTS[c.ok]) for c in checks]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    versions = ", ".join(f"{name} {number}" for name, number in software().items())
    path.write_text(f"Measured on {machine()}; {versions}.\n\n" + "\n".join(lines) + "\n")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _vector_units() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return next((f" ({name})" for flag, name in _UNITS.items() if flag in flags), "")


_UNITS = {"avx512f": "AVX-512", "avx2": "AVX2"}
