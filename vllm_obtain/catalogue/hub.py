"""The layout of the Hugging Face cache: `models--org--name/snapshots/<revision>/`."""

from __future__ import annotations

import os
from pathlib import Path

from vllm_obtain.catalogue.files import read_limited

_REVISION_BYTES = 256


def repository(folder: str) -> str | None:
    """The repository that a cache folder is for.

    Args:
        folder: a folder's name, such as `models--Qwen--Qwen3-8B`.

    Returns:
        `Qwen/Qwen3-8B`, or None if it is no such folder.
    """
    kind, *names = folder.split("--")
    return "/".join(names) if kind == "models" and all(names) and names else None


def newest_snapshot(folder: Path) -> Path | None:
    """The one snapshot of a repository that counts.

    Args:
        folder: the repository's folder in the cache.

    Returns:
        The snapshot that `refs/main` names, else the one changed last, else None.
    """
    try:
        with os.scandir(folder / "snapshots") as entries:
            found = {
                entry.name: entry.stat().st_mtime_ns
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
            }
    except OSError:
        return None
    if not found:
        return None
    name = _main(folder)
    if name not in found:
        name = max(found, key=lambda each: (found[each], each))
    return folder / "snapshots" / name


def _main(folder: Path) -> str:
    try:
        content = read_limited(folder / "refs" / "main", _REVISION_BYTES)
    except OSError:
        return ""
    return content.decode("utf-8", "replace").strip()
