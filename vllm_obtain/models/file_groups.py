"""Groups the files of a folder into models, by their names and sizes only."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from vllm_obtain.models import mmproj
from vllm_obtain.models.directory_walk import Folder
from vllm_obtain.models.model import Format
from vllm_obtain.models.safe_open import FileFacts
from vllm_obtain.models.safetensors import CONFIG, WEIGHTS

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})", re.ASCII)
# Files of a safetensors model besides its weights; weights in other formats do not belong to it.
_CONFIG_FILES = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
# Weights that PyTorch unpickles, which can execute code.
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class FileGroup:
    """The files of one model.

    Args:
        path: the first GGUF file, or the folder.
        format: `gguf` or `safetensors`.
        stem: the file name without ending and part number, or the folder name.
        files: all files by name.
        problem: why the model cannot be used, or None.
        projector: the name of the vision projector among the files, or None.
    """

    path: Path
    format: Format
    stem: str
    files: dict[str, FileFacts]
    problem: str | None = None
    projector: str | None = None

    @property
    def revision(self) -> str:
        """12 hex digits that change with the names, sizes or modification times of the files."""
        digest = hashlib.sha256()
        for name, file in sorted(self.files.items()):
            digest.update(f"{name}\0{file.size}\0{file.mtime_ns}\n".encode("utf-8", "replace"))
        return digest.hexdigest()[:12]


def models_in(folder: Folder) -> list[FileGroup]:
    """The models whose files lie directly in a folder, sorted by path."""
    groups = _gguf_models(folder)
    if any(name.endswith(WEIGHTS) for name in folder.files):
        files = {
            n: file for n, file in folder.files.items() if n.endswith((WEIGHTS, *_CONFIG_FILES))
        }
        groups.append(FileGroup(folder.path, "safetensors", folder.path.name, files))
    elif not groups and CONFIG in folder.files:
        groups = _pickled_models(folder)
    return sorted(groups, key=lambda group: group.path)


def model_of(path: Path) -> FileGroup | None:
    """Find the model of a GGUF file.

    Args:
        path: the file, or the first part of a split one.

    Raises:
        OSError: the folder cannot be read.
    """
    folder = Folder(path.parent, {}, [], [])
    for entry in path.parent.iterdir():
        if entry.suffix.lower() == ".gguf" and entry.is_file():
            stat = entry.stat()
            folder.files[entry.name] = FileFacts(entry, stat.st_size, stat.st_mtime_ns)
    return next((groups for groups in _gguf_models(folder) if groups.path == path), None)


def is_whole_folder(folder: Folder) -> bool:
    """Whether the folder is one model and its subfolders are parts of it.

    Subfolders may hold `original` copies of the weights, or modules of sentence-transformers.
    """
    return CONFIG in folder.files and any(n.endswith(WEIGHTS) for n in folder.files)


def _pickled_models(folder: Folder) -> list[FileGroup]:
    """The model of a folder whose only weights are pickles; it is listed but never loaded."""
    pickles = sorted(name for name in folder.files if name.lower().endswith(_PICKLED))
    if not pickles:
        return []
    files = {name: folder.files[name] for name in (*pickles, CONFIG)}
    problem = (
        f"{pickles[0]} is a pickle, which can execute code when it is loaded; download the model "
        "as safetensors or GGUF"
    )
    return [FileGroup(folder.path, "safetensors", folder.path.name, files, problem)]


def _gguf_models(folder: Folder) -> list[FileGroup]:
    groups: dict[tuple[str, int], dict[int, FileFacts]] = {}
    for name, file in folder.files.items():
        if not name.lower().endswith(".gguf") or mmproj.is_projector(name):
            continue
        stem, count, part = file.path.stem, 1, 1
        if split := _SPLIT.fullmatch(stem):
            stem, count, part = split["stem"], int(split["count"]), int(split["part"])
        groups.setdefault((stem, count), {})[part] = file
    projectors = {name: file for name, file in folder.files.items() if mmproj.is_projector(name)}
    stems = [stem for stem, _ in groups]
    models = []
    for (stem, count), parts in groups.items():
        picked = mmproj.pick(stem, stems, projectors.keys()) if projectors else None
        models.append(_gguf_model(stem, count, parts, projectors[picked] if picked else None))
    return models


def _gguf_model(
    stem: str, count: int, parts: dict[int, FileFacts], projector: FileFacts | None
) -> FileGroup:
    files = {file.path.name: file for file in parts.values()}
    if projector is not None:
        files[projector.path.name] = projector
    first_missing = next((number for number in range(1, count + 1) if number not in parts), None)
    problem = None if first_missing is None else f"part {first_missing} of {count} is missing"
    name = projector.path.name if projector else None
    return FileGroup(parts[min(parts)].path, "gguf", stem, files, problem, name)
