"""Removes a model from MODELS_DIR: its own files, and nothing that belongs to anybody else."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from msgspec import Struct

from vllm_obtain.catalogue import Model, hub
from vllm_obtain.catalogue.convert.plan import FOLDER as CONVERTED
from vllm_obtain.catalogue.found import model_of
from vllm_obtain.errors import Conflict, FetchFailed
from vllm_obtain.fetching import manifest as manifests
from vllm_obtain.fetching import placing
from vllm_obtain.fetching.workplace import size_of


class Removed(Struct, frozen=True):
    """What was removed.

    Args:
        model: the model's name.
        paths: the files and folders that are gone.
        size: their bytes.
        bin: where they are until they are deleted.
    """

    model: str
    paths: list[str]
    size: int
    bin: Path


class NotRemovable(Conflict):
    """The model's files are not this service's to remove; the message says why."""

    code = "model_not_removable"


def take_away(model: Model, models_dir: Path, others: list[Model]) -> Removed:
    """Make a model disappear, at once; what is left is to empty the bin.

    Args:
        model: as the catalogue found it. Its paths come from a scan, never from a client.
        models_dir: where models are.
        others: all other models, whose files stay.

    Raises:
        NotRemovable: it is an adapter, or behind a link.
        FetchFailed: its files cannot be moved.
    """
    models_dir = models_dir.absolute()
    try:
        paths = _own(model, models_dir, others)
        waste = Path(tempfile.mkdtemp(prefix=placing.BIN, dir=models_dir))
        for number, path in enumerate(paths):
            path.replace(waste / f"{number}-{path.name}")
    except OSError as error:
        raise FetchFailed(
            f"'{model.name}' cannot be removed: {error.strerror or error}.", retry=False
        ) from error
    for parent in {path.parent for path in paths}:
        _remove_empty(parent, models_dir)
    return Removed(
        model.name, [str(p.relative_to(models_dir)) for p in paths], size_of(waste), waste
    )


def _own(model: Model, models_dir: Path, others: list[Model]) -> list[Path]:
    """The files or the folder of a model."""
    if model.base is not None:
        raise NotRemovable(
            f"'{model.name}' is an adapter that MODEL_SETTINGS names: take its table out of there."
        )
    path = model.path
    if path == models_dir or not path.is_relative_to(models_dir):
        raise NotRemovable(f"'{model.name}' is MODELS_DIR itself: remove its files by hand.")
    real = Path(os.path.realpath(models_dir)) / path.relative_to(models_dir).parent
    if os.path.realpath(path.parent) != str(real) or (path.is_dir() and path.is_symlink()):
        raise NotRemovable(f"'{model.name}' lies behind a link: remove the link by hand.")
    top = models_dir / path.relative_to(models_dir).parts[0]
    alone = not any(other.path.is_relative_to(top) for other in others)
    # What was fetched as a folder goes as one, and so does a repository of Hugging Face's cache.
    if top.is_dir() and alone and (manifests.read(top) or hub.repository(top.name)):
        before = placing.previous(models_dir, top.name)
        return [top, before] if before.is_dir() else [top]
    if model.format == "safetensors":
        if any(other.path.is_relative_to(path) for other in others):
            raise NotRemovable(f"Another model lies in {path}: remove its files by hand.")
        return [path]
    found = model_of(path)
    files = [file.path for file in found.files.values()] if found else [path]
    shared = {other.projector.path for other in others if other.projector is not None}
    return [file for file in files if file not in shared]


def _remove_empty(folder: Path, models_dir: Path) -> None:
    """Remove folders that hold nothing any more, or what was converted from what they held."""
    with contextlib.suppress(OSError):
        while folder != models_dir:
            if [each.name for each in folder.iterdir()] == [CONVERTED]:
                shutil.rmtree(folder / CONVERTED, ignore_errors=True)
            folder.rmdir()
            folder = folder.parent
