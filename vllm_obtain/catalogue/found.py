"""Which files of a folder make up a model. Only names and sizes are looked at here."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from vllm_obtain.catalogue import projectors
from vllm_obtain.catalogue.files import FileFacts
from vllm_obtain.catalogue.model import Format
from vllm_obtain.catalogue.safetensors import CONFIG, WEIGHTS
from vllm_obtain.catalogue.walk import Folder

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})", re.ASCII)
# What belongs to a model beside its weights; the same weights in other formats don't.
_BESIDE = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
# Weights that PyTorch unpickles: whoever made such a file has its programs run by who reads it.
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a model that has no name yet.

    Args:
        path: its first GGUF file, or its folder.
        format: `gguf` or `safetensors`.
        stem: the file's name without ending and part number, or the folder's name.
        files: all its files by name.
        problem: what is missing, or None.
        projector: the name of the file among them that lets a GGUF model see, or None.
    """

    path: Path
    format: Format
    stem: str
    files: dict[str, FileFacts]
    problem: str | None = None
    projector: str | None = None

    @property
    def revision(self) -> str:
        """12 hex digits that change with the names, sizes or times of its files."""
        digest = hashlib.sha256()
        for name, file in sorted(self.files.items()):
            digest.update(f"{name}\0{file.size}\0{file.mtime_ns}\n".encode("utf-8", "replace"))
        return digest.hexdigest()[:12]


def models_in(folder: Folder) -> list[Found]:
    """The models whose files lie in this folder itself, by path."""
    found = _gguf_models(folder)
    if any(name.endswith(WEIGHTS) for name in folder.files):
        files = {n: file for n, file in folder.files.items() if n.endswith((WEIGHTS, *_BESIDE))}
        found.append(Found(folder.path, "safetensors", folder.path.name, files))
    elif not found and CONFIG in folder.files:
        found = _pickled_models(folder)
    return sorted(found, key=lambda each: each.path)


def model_of(path: Path) -> Found | None:
    """The model that this GGUF file, or first part of a split one, belongs to.

    Args:
        path: the file; as in a scan, its other parts are looked for beside it.

    Raises:
        OSError: its folder can't be read.
    """
    folder = Folder(path.parent, {}, [], [])
    for entry in path.parent.iterdir():
        if entry.suffix.lower() == ".gguf" and entry.is_file():
            facts = entry.stat()
            folder.files[entry.name] = FileFacts(entry, facts.st_size, facts.st_mtime_ns)
    return next((found for found in _gguf_models(folder) if found.path == path), None)


def is_whole_folder(folder: Folder) -> bool:
    """Whether the folder is one model, so that what lies below it is part of that.

    Such as the `original` copy of the same weights, or the parts of a sentence encoder.
    """
    return CONFIG in folder.files and any(n.endswith(WEIGHTS) for n in folder.files)


def _pickled_models(folder: Folder) -> list[Found]:
    """The model of a folder that has its weights in pickles alone: listed, and never loaded."""
    pickles = sorted(name for name in folder.files if name.lower().endswith(_PICKLED))
    if not pickles:
        return []
    files = {name: folder.files[name] for name in (*pickles, CONFIG)}
    problem = (
        f"{pickles[0]} is a pickle, which can run programs when it is read; get the model as "
        "safetensors or GGUF"
    )
    return [Found(folder.path, "safetensors", folder.path.name, files, problem)]


def _gguf_models(folder: Folder) -> list[Found]:
    groups: dict[tuple[str, int], dict[int, FileFacts]] = {}
    for name, file in folder.files.items():
        if not name.lower().endswith(".gguf") or projectors.is_projector(name):
            continue
        stem, count, part = file.path.stem, 1, 1
        if split := _SPLIT.fullmatch(stem):
            stem, count, part = split["stem"], int(split["count"]), int(split["part"])
        groups.setdefault((stem, count), {})[part] = file
    helpers = {name: file for name, file in folder.files.items() if projectors.is_projector(name)}
    stems = [stem for stem, _ in groups]
    found = []
    for (stem, count), parts in groups.items():
        helper = projectors.pick(stem, stems, helpers.keys()) if helpers else None
        found.append(_gguf_model(stem, count, parts, helpers[helper] if helper else None))
    return found


def _gguf_model(
    stem: str, count: int, parts: dict[int, FileFacts], projector: FileFacts | None
) -> Found:
    files = {file.path.name: file for file in parts.values()}
    if projector is not None:
        files[projector.path.name] = projector
    first_missing = next((number for number in range(1, count + 1) if number not in parts), None)
    problem = None if first_missing is None else f"part {first_missing} of {count} is missing"
    name = projector.path.name if projector else None
    return Found(parts[min(parts)].path, "gguf", stem, files, problem, name)
