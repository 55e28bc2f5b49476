"""Finds all models below MODELS_DIR and reads their properties."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from vllm_obtain.gevent_compat import yield_to_others
from vllm_obtain.models import kind as model_kind
from vllm_obtain.models import mmproj, naming, safetensors
from vllm_obtain.models.directory_walk import walk
from vllm_obtain.models.file_groups import FileGroup, is_whole_folder, model_of, models_in
from vllm_obtain.models.generation_defaults import of_folder
from vllm_obtain.models.gguf import header as gguf_header
from vllm_obtain.models.model import Model

# GGUF files that belong to another model and are not listed.
_HELPER_KINDS = frozenset({"adapter", "mmproj", "imatrix"})
_HELPER_ARCHITECTURES = frozenset({"clip", "controlvector"})
# Models that are read at once in a worker, so that a scan does not delay its requests.
_STEP = 32
_NO_PROJECTOR = "Its folder has no vision projector (mmproj-….gguf)."
_EMBEDDING = "It is an embedding model."
_RERANKER = "cross-encoders are not supported; use an embedding model for /v1/rerank"


def scan(models_dir: Path, known: Iterable[Model] = ()) -> list[Model]:
    """Find all models.

    Args:
        models_dir: the folder to scan; may be missing.
        known: the models of the previous scan; unchanged ones are not read again.

    Returns:
        The models sorted by name; unusable ones have a `problem`.
    """
    models_dir = models_dir.absolute()
    previous = {(model.path, model.revision): model for model in known if model.problem is None}
    pairs = []
    for number, group in enumerate(_find(models_dir)):
        if number % _STEP == 0:
            yield_to_others()
        revision = group.revision
        model = previous.get((group.path, revision)) or _read(group, revision)
        if not _is_helper(model):
            pairs.append((group, model))
    names = naming.names([_location(group, models_dir) for group, _ in pairs])
    models = [
        dataclasses.replace(model, name=name) for name, (_, model) in zip(names, pairs, strict=True)
    ]
    return sorted(models, key=lambda model: model.name)


def read_file(path: Path) -> Model | None:
    """Read one GGUF model, as `scan` does; its name is the file name.

    Args:
        path: the file, or the first part of a split one.

    Returns:
        The model, or None if there is no such GGUF file.

    Raises:
        OSError: the folder cannot be read.
    """
    group = model_of(path)
    if group is None:
        return None
    return dataclasses.replace(_read(group, group.revision), name=group.stem)


def read_folder(path: Path) -> Model | None:
    """Read one safetensors folder, as `scan` does, also outside of MODELS_DIR.

    Args:
        path: the folder; its name becomes the model's name.

    Returns:
        The model, or None if the folder has no safetensors model.
    """
    folder = next(iter(walk(path)), None)
    groups = [each for each in models_in(folder) if each.format == "safetensors"] if folder else []
    if not groups:
        return None
    return dataclasses.replace(_read(groups[0], groups[0].revision), name=path.name)


def _find(models_dir: Path) -> list[FileGroup]:
    groups: dict[str, FileGroup] = {}
    for folder in walk(models_dir):
        for group in models_in(folder):
            real = os.path.realpath(group.path)
            # The walk visits links to folders last, but a link to a file may precede the file.
            known = groups.get(real)
            if known is None or (known.path.is_symlink() and not group.path.is_symlink()):
                groups[real] = group
        if is_whole_folder(folder) and folder.path != models_dir:
            folder.folders.clear()
            folder.links.clear()
    return list(groups.values())


def _location(group: FileGroup, models_dir: Path) -> naming.ModelLocation:
    parts = group.path.relative_to(models_dir).parts
    return naming.ModelLocation(parts, group.stem, group.format == "gguf")


def _is_helper(model: Model) -> bool:
    header = model.header
    return header is not None and (
        header.kind in _HELPER_KINDS or header.architecture in _HELPER_ARCHITECTURES
    )


def _read(group: FileGroup, revision: str) -> Model:
    model = Model(
        name="",
        path=group.path,
        format=group.format,
        size_bytes=sum(file.size for file in group.files.values()),
        revision=revision,
        modified=max(file.mtime_ns for file in group.files.values()) // 1_000_000_000,
        problem=group.problem,
    )
    if group.problem:
        return model
    return _read_gguf(model, group) if group.format == "gguf" else _read_folder(model, group)


def _read_gguf(model: Model, group: FileGroup) -> Model:
    path = group.path
    try:
        header = gguf_header.read_header(path)
        own = [file.path for name, file in group.files.items() if name != group.projector]
        for path in sorted(each for each in own if each != group.path):
            gguf_header.check_part(path)
    except gguf_header.GGUFError as error:
        return dataclasses.replace(model, problem=f"{path.name} {error}")
    model = dataclasses.replace(
        model,
        architecture=header.architecture,
        context_length=header.context_length,
        header=header,
        sampling=header.sampling,
        kind=model_kind.of_gguf(header.architecture, header.pooling),
        problem=_RERANKER if header.pooling == model_kind.RANK else None,
    )
    return _with_image_support(model, group, header)


def _with_image_support(model: Model, group: FileGroup, header: gguf_header.GGUFHeader) -> Model:
    """Set the image support of a GGUF model, which depends on its projector."""
    if model.kind != "chat" or group.projector is None:
        reason = _NO_PROJECTOR if model.kind == "chat" else _EMBEDDING
        return dataclasses.replace(model, why_no_images=reason)
    try:
        path = group.files[group.projector].path
        projector = mmproj.read(path, header.embedding_length)
    except mmproj.ProjectorError as error:
        return dataclasses.replace(model, why_no_images=f"Its projector {group.projector} {error}.")
    return dataclasses.replace(model, supports_images=True, projector=projector)


def _read_folder(model: Model, group: FileGroup) -> Model:
    try:
        facts = safetensors.read_folder(group.files)
    except safetensors.BrokenFolderError as error:
        return dataclasses.replace(model, problem=str(error))
    kind = model_kind.of_folder(facts.architecture, group.files.keys())
    why_no_images = facts.why_no_images if kind == "chat" else _EMBEDDING
    return dataclasses.replace(
        model,
        architecture=facts.architecture,
        context_length=facts.context_length,
        sampling=of_folder(group.files),
        kind=kind,
        supports_images=not why_no_images,
        why_no_images=why_no_images,
        size_bytes=model.size_bytes - sum(group.files[name].size for name in facts.unused),
    )
