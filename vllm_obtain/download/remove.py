"""Removes a model from MODELS_DIR; files that other models use stay."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from msgspec import Struct

from vllm_obtain.download import install
from vllm_obtain.download import manifest as manifests
from vllm_obtain.download.staging import size_of
from vllm_obtain.errors import Conflict, FetchFailed, ModelInUse
from vllm_obtain.fs import lock_unused
from vllm_obtain.models import Model, hf_cache
from vllm_obtain.models.convert.plan import FOLDER as CONVERTED
from vllm_obtain.models.file_groups import model_of


class Removed(Struct, frozen=True):
    """The result of a removal.

    Args:
        model: the model's name.
        paths: the removed files and folders.
        size: their bytes.
        bin: the trash folder that holds them until they are deleted.
    """

    model: str
    paths: list[str]
    size: int
    bin: Path


class NotRemovable(Conflict):
    """The service must not remove the model's files; the message says why."""

    code = "model_not_removable"


def move_to_trash(model: Model, models_dir: Path, others: list[Model]) -> Removed:
    """Move a model's files to the trash; `install.delete_trash` deletes them.

    Args:
        model: the model as scanned; its paths never come from a client.
        models_dir: MODELS_DIR.
        others: all other models, whose files stay.

    Raises:
        ModelInUse: an engine of another service on this machine has loaded it.
        NotRemovable: the model is a LoRA adapter, lies behind a symbolic link, or shares its
            folder with another model.
        FetchFailed: the files cannot be moved.
    """
    models_dir = models_dir.absolute()
    try:
        paths = _paths_to_remove(model, models_dir, others)
        with lock_unused(model.path) as unused:
            if not unused:
                raise ModelInUse(
                    f"'{model.name}' is in use by a service on this machine. Unload it there first "
                    f"(vllm-obtain unload {model.name})."
                )
            trash = Path(tempfile.mkdtemp(prefix=install.BIN, dir=models_dir))
            for number, path in enumerate(paths):
                path.replace(trash / f"{number}-{path.name}")
    except OSError as error:
        raise FetchFailed(
            f"Cannot remove '{model.name}' ({error.strerror or error}). Check the permissions of "
            "MODELS_DIR.",
            retry=False,
        ) from error
    for parent in {path.parent for path in paths}:
        _remove_empty(parent, models_dir)
    return Removed(
        model.name, [str(p.relative_to(models_dir)) for p in paths], size_of(trash), trash
    )


def _paths_to_remove(model: Model, models_dir: Path, others: list[Model]) -> list[Path]:
    """The files or folders to remove with a model."""
    if model.base is not None:
        raise NotRemovable(
            f"'{model.name}' is a LoRA adapter from MODEL_SETTINGS. Remove its table from that "
            "file."
        )
    path = model.path
    if path == models_dir or not path.is_relative_to(models_dir):
        raise NotRemovable(f"'{model.name}' is MODELS_DIR itself. Remove its files manually.")
    real = Path(os.path.realpath(models_dir)) / path.relative_to(models_dir).parent
    if os.path.realpath(path.parent) != str(real) or (path.is_dir() and path.is_symlink()):
        raise NotRemovable(f"'{model.name}' is a symbolic link. Remove the link manually.")
    top = models_dir / path.relative_to(models_dir).parts[0]
    alone = not any(other.path.is_relative_to(top) for other in others)
    # A downloaded model and a repository of the Hugging Face cache are removed as a whole folder.
    if top.is_dir() and alone and (manifests.read(top) or hf_cache.repository(top.name)):
        before = install.previous(models_dir, top.name)
        return [top, before] if before.is_dir() else [top]
    if model.format == "safetensors":
        if any(other.path.is_relative_to(path) for other in others):
            raise NotRemovable(
                f"{path} also contains another model. Remove the files of '{model.name}' manually."
            )
        return [path]
    found = model_of(path)
    files = [file.path for file in found.files.values()] if found else [path]
    shared = {other.projector.path for other in others if other.projector is not None}
    return [file for file in files if file not in shared]


def _remove_empty(folder: Path, models_dir: Path) -> None:
    """Remove parent folders that are empty, or hold only conversions of the removed files."""
    with contextlib.suppress(OSError):
        while folder != models_dir:
            if [each.name for each in folder.iterdir()] == [CONVERTED]:
                shutil.rmtree(folder / CONVERTED, ignore_errors=True)
            folder.rmdir()
            folder = folder.parent
