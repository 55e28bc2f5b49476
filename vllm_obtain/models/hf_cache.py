"""The layout of the Hugging Face cache: `models--org--name/snapshots/<revision>/`."""

from __future__ import annotations

import os
from pathlib import Path

from vllm_obtain.models.safe_open import read_limited

_REVISION_BYTES = 256


def repository(folder: str) -> str | None:
    """Return the repository of a cache folder.

    Args:
        folder: the folder's name, such as `models--Qwen--Qwen3-8B`.

    Returns:
        The repository, such as `Qwen/Qwen3-8B`, or None if it is not a cache folder.
    """
    kind, *names = folder.split("--")
    return "/".join(names) if kind == "models" and all(names) and names else None


def newest_snapshot(folder: Path) -> Path | None:
    """Return the current snapshot of a repository.

    Args:
        folder: the repository's folder in the cache.

    Returns:
        The snapshot of `refs/main`, else the most recently modified one, else None.
    """
    try:
        with os.scandir(folder / "snapshots") as entries:
            snapshots = {
                entry.name: entry.stat().st_mtime_ns
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
            }
    except OSError:
        return None
    if not snapshots:
        return None
    name = _main_revision(folder)
    if name not in snapshots:
        name = max(snapshots, key=lambda revision: (snapshots[revision], revision))
    return folder / "snapshots" / name


def _main_revision(folder: Path) -> str:
    try:
        content = read_limited(folder / "refs" / "main", _REVISION_BYTES)
    except OSError:
        return ""
    return content.decode("utf-8", "replace").strip()
