"""Goes through MODELS_DIR folder by folder: what to enter, what to leave out. Nothing is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vllm_obtain.catalogue import hub
from vllm_obtain.catalogue.files import FileFacts

# What downloads leave behind until they are done: pip, Hugging Face, ModelScope, aria2, browsers.
_UNFINISHED: Final = (".part", ".partial", ".incomplete", ".lock", ".aria2", ".crdownload")


@dataclass(slots=True)
class Folder:
    """A folder and what counts in it.

    Args:
        path: the folder, through the links by which it was found.
        files: its files by name.
        folders: the folders in it; clear it to keep the walk out of them.
        links: links in it to folders, which are entered after everything else.
    """

    path: Path
    files: dict[str, FileFacts]
    folders: list[Path]
    links: list[Path]


def walk(root: Path) -> Iterator[Folder]:
    """Go through a folder and all below it, each real folder once.

    Links that lead out of `root` are not followed. Links to folders come last, so that what can
    be found without one is found without one. Folders that can't be read are left out.

    Args:
        root: where to begin; may be a link itself, or missing.

    Yields:
        The folders, parents before their children.
    """
    real_root = Path(os.path.realpath(root))
    seen: set[tuple[int, int]] = set()
    waiting, links = [root], list[Path]()
    while waiting or links:
        path = waiting.pop() if waiting else links.pop(0)
        try:
            folder = _look(path, real_root, seen)
        except OSError:
            continue
        if folder is not None:
            yield folder
            waiting.extend(sorted(folder.folders, reverse=True))
            links.extend(sorted(folder.links))


def _look(path: Path, real_root: Path, seen: set[tuple[int, int]]) -> Folder | None:
    facts = path.stat()
    if (facts.st_dev, facts.st_ino) in seen:
        return None
    seen.add((facts.st_dev, facts.st_ino))
    folder = Folder(path, {}, [], [])
    with os.scandir(path) as entries:
        found = {entry.name: entry for entry in entries}
    for name, entry in found.items():
        # aria2 gives a file its last name and size at once, and keeps its notes beside it.
        if not _left_out(name) and f"{name}.aria2" not in found:
            _add(folder, entry, real_root)
    if hub.repository(path.name) and path / "snapshots" in folder.folders:
        snapshot = hub.newest_snapshot(path)
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
            facts = entry.stat()
            folder.files[entry.name] = FileFacts(path, facts.st_size, facts.st_mtime_ns)
    except OSError:
        return


def _left_out(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(_UNFINISHED)
