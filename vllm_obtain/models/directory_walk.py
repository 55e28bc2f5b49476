"""Walks MODELS_DIR and filters files and folders; file contents are not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vllm_obtain.models import hf_cache
from vllm_obtain.models.safe_open import FileFacts

# Endings of partial downloads by pip, Hugging Face, ModelScope, aria2 and browsers.
_UNFINISHED: Final = (".part", ".partial", ".incomplete", ".lock", ".aria2", ".crdownload")


@dataclass(slots=True)
class Folder:
    """A folder and its relevant entries.

    Args:
        path: the path by which the walk reached the folder; it may contain links.
        files: the files by name.
        folders: the subfolders; clear the list to keep the walk out of them.
        links: the links to folders, which the walk enters last.
    """

    path: Path
    files: dict[str, FileFacts]
    folders: list[Path]
    links: list[Path]


def walk(root: Path) -> Iterator[Folder]:
    """Walk a folder and its subfolders; each real folder is visited once.

    Links that point outside of `root` are not followed. Links to folders are visited last, so that
    a folder is preferably reached by its real path. Unreadable folders are skipped.

    Args:
        root: the folder to start from; may be a link, or missing.

    Yields:
        The folders, parents before their children.
    """
    real_root = Path(os.path.realpath(root))
    seen: set[tuple[int, int]] = set()
    pending, links = [root], list[Path]()
    while pending or links:
        path = pending.pop() if pending else links.pop(0)
        try:
            folder = _list(path, real_root, seen)
        except OSError:
            continue
        if folder is not None:
            yield folder
            pending.extend(sorted(folder.folders, reverse=True))
            links.extend(sorted(folder.links))


def _list(path: Path, real_root: Path, seen: set[tuple[int, int]]) -> Folder | None:
    stat = path.stat()
    if (stat.st_dev, stat.st_ino) in seen:
        return None
    seen.add((stat.st_dev, stat.st_ino))
    folder = Folder(path, {}, [], [])
    with os.scandir(path) as entries:
        by_name = {entry.name: entry for entry in entries}
    for name, entry in by_name.items():
        # aria2 downloads into a file of the final name and size; NAME.aria2 marks it as partial.
        if not _is_ignored(name) and f"{name}.aria2" not in by_name:
            _add(folder, entry, real_root)
    if hf_cache.repository(path.name) and path / "snapshots" in folder.folders:
        snapshot = hf_cache.newest_snapshot(path)
        folder.folders = [] if snapshot is None else [snapshot]
    return folder


def _add(folder: Folder, entry: os.DirEntry[str], real_root: Path) -> None:
    path = Path(entry.path)
    try:
        linked = entry.is_symlink()
        if linked and not Path(os.path.realpath(path)).is_relative_to(real_root):
            return
        if entry.is_dir():
            (folder.links if linked else folder.folders).append(path)
        elif entry.is_file():
            stat = entry.stat()
            folder.files[entry.name] = FileFacts(path, stat.st_size, stat.st_mtime_ns)
    except OSError:
        return


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(_UNFINISHED)
