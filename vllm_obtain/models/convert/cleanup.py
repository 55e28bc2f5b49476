"""Removes incomplete and outdated conversions."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from vllm_obtain.fs import try_locked
from vllm_obtain.models.convert.plan import FOLDER, ConversionPlan, short_stem
from vllm_obtain.models.safetensors import CONFIG

_NAME = re.compile(
    r"(?P<partial>\.partial-)?(?P<stem>.+)-(?P<target>mlx|hf|gguf)-[0-9a-f]{12}", re.ASCII
)


def remove_leftovers(conversion: ConversionPlan) -> None:
    """Remove incomplete conversions of a model, and those of its earlier revisions.

    The caller holds the lock of the conversion.
    """
    name = rf"(\.partial-)?{re.escape(conversion.label)}-[0-9a-f]{{12}}"
    for folder in conversion.folder.parent.iterdir():
        if folder != conversion.folder and re.fullmatch(name, folder.name, re.ASCII):
            shutil.rmtree(folder, ignore_errors=True)


def sweep(models_dir: Path) -> list[Path]:
    """Remove incomplete conversions, and those of deleted models.

    Conversions in progress are kept.

    Returns:
        The removed folders.
    """
    removed = []
    for parent in _conversion_folders(models_dir):
        stems = {short_stem(f) for f in parent.parent.iterdir() if f.suffix.lower() == ".gguf"}
        if (parent.parent / CONFIG).exists():
            stems.add(short_stem(parent.parent))
        for folder in sorted(parent.iterdir()):
            match = _NAME.fullmatch(folder.name)
            if match is None or (match["partial"] is None and match["stem"] in stems):
                continue
            if _remove(folder, parent / f".{match['stem']}-{match['target']}.lock"):
                removed.append(folder)
    return removed


def _conversion_folders(models_dir: Path) -> Iterator[Path]:
    for path, folders, _ in os.walk(models_dir):
        if FOLDER in folders:
            yield Path(path) / FOLDER
        folders[:] = [name for name in folders if not name.startswith(".")]


def _remove(folder: Path, lock: Path) -> bool:
    with try_locked(lock) as is_locked:
        if is_locked:
            shutil.rmtree(folder, ignore_errors=True)
        return is_locked
