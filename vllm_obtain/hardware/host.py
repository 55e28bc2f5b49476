"""Reads hardware information from the operating system: /proc, cgroup v2, sysctl.

The parsers are pure functions of text. The readers never raise: they return None or an empty value
if the information is not available.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_SYSCTL = (
    "machdep.cpu.brand_string",
    "hw.memsize",
    "hw.physicalcpu",
    "hw.logicalcpu",
    "hw.perflevel0.physicalcpu",  # last: missing in virtual machines, and sysctl stops there
)


def read(path: Path) -> str:
    """Return the text of a small file, empty if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def total_memory() -> int:
    """Return the memory of the machine in bytes, regardless of cgroup limits."""
    try:
        return int(psutil.virtual_memory().total)
    except (psutil.Error, OSError, RuntimeError, ValueError):  # no /proc/meminfo
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def physical_cores() -> int | None:
    """Return the physical cores of the machine; None if unknown (virtual ARM machines)."""
    try:
        return int(psutil.cpu_count(logical=False) or 0) or None
    except (psutil.Error, OSError, RuntimeError, ValueError):
        return None


def allowed_cores() -> int:
    """Return the hardware threads that the CPU affinity of this process allows."""
    if sys.platform == "linux":
        with suppress(OSError):
            return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def sysctl(names: Sequence[str] = _SYSCTL) -> dict[str, str]:
    """Read sysctl values of macOS, by default processor and memory; empty on other systems."""
    command = ["/usr/sbin/sysctl", *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return parse_pairs(done.stdout)


def parse_pairs(text: str) -> dict[str, str]:
    """Parse lines of `name: value`; the first line of a name wins."""
    pairs: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            pairs.setdefault(name.strip(), value.strip())
    return pairs


def number(text: str | None) -> int | None:
    """Parse a positive integer; None for anything else."""
    digits = (text or "").strip()
    return int(digits) or None if digits.isdecimal() else None


def parse_cpuinfo(text: str, arch: str) -> str:
    """Return the processor name from /proc/cpuinfo.

    Args:
        text: the content of the file; on ARM it has no model name, but may name the board.
        arch: the fallback, such as "aarch64".
    """
    pairs = parse_pairs(text)
    for key in ("model name", "Model", "Hardware", "cpu model"):
        if pairs.get(key):
            return pairs[key]
    maker, part = pairs.get("CPU implementer"), pairs.get("CPU part")
    return f"{arch} (implementer {maker}, part {part})" if maker and part else arch


def parse_cpu_max(text: str) -> float | None:
    """Return the number of CPUs that cpu.max of cgroup v2 allows; None for no limit.

    Args:
        text: quota and period in microseconds, such as "200000 100000", or "max 100000".
    """
    quota, _, period = text.strip().partition(" ")
    if (allowed := number(quota)) is None:
        return None
    return allowed / (number(period) or 100_000)


def parse_cgroup(text: str, root: Path = _CGROUP_ROOT) -> list[Path]:
    """List the cgroup v2 folders whose limits apply to a process, innermost first.

    Args:
        text: /proc/self/cgroup; the line of v2 is `0::/path`.
        root: where cgroup v2 is mounted.
    """
    for line in text.splitlines():
        if line.startswith("0::"):
            inner = Path(line[3:].strip().lstrip("/"))
            return [root / inner, *(root / parent for parent in inner.parents)]
    return []


def cgroups() -> list[Path]:
    """List the cgroup v2 folders of this process, innermost first."""
    return list(dict.fromkeys(parse_cgroup(read(Path("/proc/self/cgroup")))))


def cpu_limit(folders: list[Path]) -> int | None:
    """Return the CPUs that the cgroups allow, rounded down, at least 1; None for no limit.

    Rounding up would start more threads than the quota covers, and all of them are throttled then.
    """
    quotas = [parse_cpu_max(read(folder / "cpu.max")) for folder in folders]
    limits = [quota for quota in quotas if quota is not None]
    return max(1, math.floor(min(limits))) if limits else None


def memory_limit(folders: list[Path]) -> int | None:
    """Return the bytes that the cgroups allow; None for no limit."""
    limits = [number(read(folder / "memory.max")) for folder in folders]
    return min((limit for limit in limits if limit is not None), default=None)


def memory_left(folders: list[Path]) -> int | None:
    """Return the bytes that are left below the cgroup limits; None for no limit."""
    left = []
    for folder in folders:
        limit = number(read(folder / "memory.max"))
        if limit is not None:
            used = number(read(folder / "memory.current")) or 0
            stat = dict(line.split(" ", 1) for line in _stat_lines(folder))
            # The kernel reclaims this part of the page cache before an out-of-memory kill.
            cache = number(stat.get("inactive_file")) or 0
            left.append(max(0, limit - max(0, used - cache)))
    return min(left, default=None)


def oom_kills() -> int:
    """Return how many processes the kernel has killed since the boot because memory was short.

    The counter `oom_kill` of /proc/vmstat counts also those that a cgroup limit ended. 0 where the
    system has no such counter.
    """
    fields = (line.split() for line in read(Path("/proc/vmstat")).splitlines())
    return next((int(line[1]) for line in fields if line[0] == "oom_kill"), 0)


def _stat_lines(folder: Path) -> list[str]:
    return [line for line in read(folder / "memory.stat").splitlines() if " " in line]
