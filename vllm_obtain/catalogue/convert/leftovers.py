"""Removes what a conversion that was killed, or one of an earlier version, left behind."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from vllm_obtain.catalogue.convert.plan import FOLDER, Plan, short_stem
from vllm_obtain.catalogue.safetensors import CONFIG

_NAME = re.compile(
    r"(?P<partial>\.partial-)?(?P<stem>.+)-(?P<target>mlx|hf|gguf)-[0-9a-f]{12}", re.ASCII
)


def remove_leftovers(todo: Plan) -> None:
    """Remove unfinished folders of this model, and those of its earlier revisions.

    Call it only while holding the model's lock.
    """
    name = rf"(\.partial-)?{re.escape(todo.label)}-[0-9a-f]{{12}}"
    for folder in todo.folder.parent.iterdir():
        if folder != todo.folder and re.fullmatch(name, folder.name, re.ASCII):
            shutil.rmtree(folder, ignore_errors=True)


def sweep(models_dir: Path) -> list[Path]:
    """Remove what no model needs: unfinished conversions, and those of files that are gone.

    What somebody converts at this moment is left alone.

    Returns:
        The folders that were removed.
    """
    removed = []
    for room in _rooms(models_dir):
        stems = {short_stem(f) for f in room.parent.iterdir() if f.suffix.lower() == ".gguf"}
        if (room.parent / CONFIG).exists():
            stems.add(short_stem(room.parent))
        for each in sorted(room.iterdir()):
            named = _NAME.fullmatch(each.name)
            if named is None or (named["partial"] is None and named["stem"] in stems):
                continue
            if _remove(each, room / f".{named['stem']}-{named['target']}.lock"):
                removed.append(each)
    return removed


def _rooms(models_dir: Path) -> Iterator[Path]:
    for path, folders, _ in os.walk(models_dir):
        if FOLDER in folders:
            yield Path(path) / FOLDER
        folders[:] = [name for name in folders if not name.startswith(".")]


def _remove(folder: Path, lock: Path) -> bool:
    fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        os.close(fd)
