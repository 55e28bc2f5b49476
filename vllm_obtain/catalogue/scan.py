"""Finds all models under MODELS_DIR and reads what their files say."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from vllm_obtain.catalogue import gguf, kinds, naming, projectors, safetensors
from vllm_obtain.catalogue.found import Found, is_whole_folder, model_of, models_in
from vllm_obtain.catalogue.model import Model
from vllm_obtain.catalogue.sampling import of_folder
from vllm_obtain.catalogue.walk import walk

# GGUF files that only serve another model: they have no name of their own.
_HELPER_KINDS = frozenset({"adapter", "mmproj", "imatrix"})
_HELPER_ARCHITECTURES = frozenset({"clip", "controlvector"})
_NO_PROJECTOR = "No projector (a file mmproj-….gguf) lies beside its GGUF file."
_VECTORS = "It makes vectors of texts."
_RERANKER = "it is a cross-encoder, which no engine is asked yet; rerank with an embedding model"


def scan(models_dir: Path, known: Iterable[Model] = ()) -> list[Model]:
    """Find all models.

    Args:
        models_dir: the folder to look through; a missing one holds no models.
        known: models of an earlier scan; those whose files did not change are not read again.

    Returns:
        The models by name, unusable ones with their problem.
    """
    models_dir = models_dir.absolute()
    before = {(model.path, model.revision): model for model in known if model.problem is None}
    pairs = []
    for found in _find(models_dir):
        revision = found.revision
        model = before.get((found.path, revision)) or _read(found, revision)
        if not _is_helper(model):
            pairs.append((found, model))
    names = naming.names([_place(found, models_dir) for found, _ in pairs])
    models = [
        dataclasses.replace(model, name=name) for name, (_, model) in zip(names, pairs, strict=True)
    ]
    return sorted(models, key=lambda model: model.name)


def read_file(path: Path) -> Model | None:
    """Read one GGUF model, as a scan would; its name is that of its file.

    Args:
        path: the file, or the first part of a split one.

    Returns:
        The model, or None if there is no such GGUF file.

    Raises:
        OSError: its folder can't be read.
    """
    found = model_of(path)
    if found is None:
        return None
    return dataclasses.replace(_read(found, found.revision), name=found.stem)


def read_folder(path: Path) -> Model | None:
    """Read one safetensors folder, as a scan would, also where a scan does not look.

    Args:
        path: the folder; its name is the model's.

    Returns:
        The model, or None if there is no such folder.
    """
    folder = next(iter(walk(path)), None)
    found = [each for each in models_in(folder) if each.format == "safetensors"] if folder else []
    if not found:
        return None
    return dataclasses.replace(_read(found[0], found[0].revision), name=path.name)


def _find(models_dir: Path) -> list[Found]:
    found: dict[str, Found] = {}
    for folder in walk(models_dir):
        for each in models_in(folder):
            real = os.path.realpath(each.path)
            # The walk meets real folders before links, but not real files before links to them.
            if real not in found or (found[real].path.is_symlink() and not each.path.is_symlink()):
                found[real] = each
        if is_whole_folder(folder) and folder.path != models_dir:
            folder.folders.clear()
            folder.links.clear()
    return list(found.values())


def _place(found: Found, models_dir: Path) -> naming.Place:
    parts = found.path.relative_to(models_dir).parts
    return naming.Place(parts, found.stem, found.format == "gguf")


def _is_helper(model: Model) -> bool:
    header = model.header
    return header is not None and (
        header.kind in _HELPER_KINDS or header.architecture in _HELPER_ARCHITECTURES
    )


def _read(found: Found, revision: str) -> Model:
    model = Model(
        name="",
        path=found.path,
        format=found.format,
        size_bytes=sum(file.size for file in found.files.values()),
        revision=revision,
        modified=max(file.mtime_ns for file in found.files.values()) // 1_000_000_000,
        problem=found.problem,
    )
    if found.problem:
        return model
    return _read_gguf(model, found) if found.format == "gguf" else _read_folder(model, found)


def _read_gguf(model: Model, found: Found) -> Model:
    path = found.path
    try:
        header = gguf.read_header(path)
        own = [file.path for name, file in found.files.items() if name != found.projector]
        for path in sorted(each for each in own if each != found.path):
            gguf.check_part(path)
    except gguf.GGUFError as error:
        return dataclasses.replace(model, problem=f"{path.name} {error}")
    model = dataclasses.replace(
        model,
        architecture=header.architecture,
        context_length=header.context_length,
        header=header,
        sampling=header.sampling,
        kind=kinds.of_gguf(header.architecture, header.pooling),
        problem=_RERANKER if header.pooling == kinds.RANK else None,
    )
    return _seeing(model, found, header)


def _seeing(model: Model, found: Found, header: gguf.GGUFHeader) -> Model:
    """Say whether a GGUF model can see, by the projector beside it."""
    if model.kind != "chat" or found.projector is None:
        return dataclasses.replace(model, blind=_NO_PROJECTOR if model.kind == "chat" else _VECTORS)
    try:
        path = found.files[found.projector].path
        projector = projectors.read(path, header.embedding_length)
    except projectors.ProjectorError as error:
        return dataclasses.replace(model, blind=f"Its projector {found.projector} {error}.")
    return dataclasses.replace(model, sees=True, projector=projector)


def _read_folder(model: Model, found: Found) -> Model:
    try:
        facts = safetensors.read_folder(found.files)
    except safetensors.BrokenFolderError as error:
        return dataclasses.replace(model, problem=str(error))
    kind = kinds.of_folder(facts.architecture, found.files.keys())
    blind = facts.blind if kind == "chat" else _VECTORS
    return dataclasses.replace(
        model,
        architecture=facts.architecture,
        context_length=facts.context_length,
        sampling=of_folder(found.files),
        kind=kind,
        sees=not blind,
        blind=blind,
        size_bytes=model.size_bytes - sum(found.files[name].size for name in facts.unused),
    )
