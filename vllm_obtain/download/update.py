"""Updates models to the latest revision of their source, and rolls them back.

The installed version stays in place until the new one is complete, verified and readable. If the
model is loaded, the supervisor installs the new version after an engine has loaded it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from vllm_obtain.config.settings import Settings
from vllm_obtain.download import manifest as manifests
from vllm_obtain.download import resolve
from vllm_obtain.download.download import finish, report_other_download
from vllm_obtain.download.file_transfer import FileTransfers
from vllm_obtain.download.install import finish_interrupted, install_version, previous, recover
from vllm_obtain.download.library import load
from vllm_obtain.download.manifest import Manifest
from vllm_obtain.download.staging import DownloadPlan, StagingDir, sweep
from vllm_obtain.download.update_check import Comparison, downloaded_models, is_same, sources
from vllm_obtain.errors import Conflict, FetchFailed, NoPrevious
from vllm_obtain.models import Model
from vllm_obtain.models.progress import Progress, ProgressCallback
from vllm_obtain.models.scan import scan

Install = Callable[[Path], None]
# The result of an update that changed nothing.
CURRENT: Final = "The model is up to date."


class NotReadable(FetchFailed):
    """The new version is not a readable model; the installed one stays."""

    code = "update_not_readable"


class BeingFetched(Conflict):
    """Another process is downloading or replacing the model."""

    code = "model_being_fetched"


def stage(
    name: str, settings: Settings, on_progress: ProgressCallback, install: Install | None = None
) -> Path | None:
    """Download the latest revision of a model, if it differs from the installed one.

    Args:
        name: the model's name.
        settings: the service settings.
        on_progress: progress callback.
        install: moves the new version into place; called while the model's lock is held.

    Returns:
        The staged folder, or the model's folder if `install` is given; None if the model is
        up to date.

    Raises:
        ServiceError: the download failed; the installed version is unchanged.
        SettingsError: the user's catalogue.toml is invalid.
    """
    (manifest,) = downloaded_models(settings.models_dir, [name])
    try:
        return _stage(manifest.name, settings, on_progress, install)
    except OSError as error:
        raise FetchFailed(
            f"Cannot write to {settings.models_dir} ({error.strerror or error}). "
            f"'{manifest.name}' is unchanged. Check the folder's permissions and free space.",
            retry=False,
        ) from error


def _stage(
    name: str, settings: Settings, on_progress: ProgressCallback, install: Install | None
) -> Path | None:
    models_dir = settings.models_dir
    require_own(models_dir / name)
    recover(models_dir)
    sweep(models_dir)
    staging, library = StagingDir(models_dir, name), load(models_dir)
    with staging.locked(lambda: report_other_download(staging, name, on_progress)):
        # Another process may have updated the model while this one waited for the lock.
        (manifest,) = downloaded_models(models_dir, [name])
        on_progress(Progress("looking", name, manifest.source))
        change = Comparison(settings, library).of(manifest, before=False)
        if change.state == "failed":
            raise FetchFailed(f"{change.error} '{name}' is unchanged.", retry_after=60)
        if change.state == "current":
            return None
        candidates = sources(manifest, library)
        hub, plan = resolve.first_available(candidates, name, settings, staging)
        staging.begin(plan)
        _link_unchanged(manifest, plan, models_dir / name, staging.files)
        files = FileTransfers(hub, plan, staging, name, on_progress).all()
        folder = finish(staging, plan, files, name, manifest.asked)
        read_staged_model(folder, name)
        if install is not None:
            install(folder)
            staging.clear()
            return models_dir / name
        return folder


def update(
    name: str,
    settings: Settings,
    on_progress: ProgressCallback,
    keep: bool,
    before_install: Callable[[], None] | None = None,
) -> bool:
    """Update a model that is not loaded.

    Args:
        name: the model's name.
        settings: the service settings.
        on_progress: progress callback.
        keep: whether to keep the previous version for a rollback.
        before_install: called when the new version is staged; may raise to leave it uninstalled.

    Returns:
        Whether a new version was installed.

    Raises:
        ServiceError, SettingsError: as in `stage`.
    """
    target = settings.models_dir / downloaded_models(settings.models_dir, [name])[0].name

    def install(folder: Path) -> None:
        if before_install is not None:
            before_install()
        install_version(folder, target, keep)

    folder = stage(name, settings, on_progress, install)
    finish_interrupted(settings.models_dir)
    return folder is not None


def rollback(name: str, settings: Settings) -> Manifest:
    """Replace a model that is not loaded by its previous version; the replaced one is kept.

    Returns:
        The manifest of the version that is now installed.

    Raises:
        ServiceError: no previous version is kept, or it is damaged; nothing has changed.
    """
    (installed,) = downloaded_models(settings.models_dir, [name])
    target = settings.models_dir / installed.name
    with StagingDir(settings.models_dir, installed.name).locked(
        refuse_while_locked(installed.name)
    ):
        manifest = require_previous(target)
        try:
            install_version(previous(target.parent, target.name), target, keep=True)
        except OSError as error:
            raise FetchFailed(
                f"Cannot install the previous version of '{target.name}' "
                f"({error.strerror or error}). The model is unchanged. Check the permissions of "
                "MODELS_DIR.",
                retry=False,
            ) from error
        finish_interrupted(settings.models_dir)
    return manifest


def require_previous(target: Path) -> Manifest:
    """Read the manifest of a model's previous version and verify its files.

    Raises:
        NoPrevious: no previous version is kept.
        FetchFailed: it is damaged, or the model's folder is a symbolic link.
    """
    require_own(target)
    folder = previous(target.parent, target.name)
    manifest = manifests.read(folder)
    if manifest is None:
        raise NoPrevious(
            f"No previous version of '{target.name}' is kept. An update keeps one, unless it runs "
            "with --no-keep or its disk space is needed."
        )
    if faults := list(manifests.faults(folder, manifest)):
        raise FetchFailed(
            f"The previous version of '{target.name}' is damaged: {faults[0]}. Download the model "
            "again with `pull --force`.",
            retry=False,
        )
    read_staged_model(folder, target.name)
    return replace(manifest, name=target.name)


def require_own(target: Path) -> None:
    """Refuse a model whose folder is a symbolic link, since its files belong to another program.

    Raises:
        FetchFailed: the folder is a symbolic link.
    """
    if target.is_symlink():
        raise FetchFailed(
            f"'{target.name}' is a symbolic link and cannot be replaced. Update the files that "
            "the link points to.",
            retry=False,
        )


def refuse_while_locked(name: str) -> Callable[[], None]:
    """Return a callback for `StagingDir.locked` that raises instead of waiting for the lock."""

    def refuse() -> None:
        raise BeingFetched(
            f"Another process is downloading or replacing '{name}'. Try again later."
        )

    return refuse


def read_staged_model(folder: Path, name: str) -> Model:
    """Read the model in a folder that is not installed yet.

    Args:
        folder: the folder with the model's files and manifest.
        name: the name for the model.

    Raises:
        NotReadable: the files are not a readable model.
    """
    models = scan(folder)
    problem = next((model.problem for model in models if model.problem), None)
    if problem or not models:
        raise NotReadable(
            f"The new version of '{name}' cannot be read: "
            f"{problem or 'it has no weights'}. The installed version stays in use.",
            retry=False,
        )
    return dataclasses.replace(models[0], name=name)


def _link_unchanged(manifest: Manifest, plan: DownloadPlan, old: Path, new: Path) -> None:
    """Hard-link the unchanged files of the installed version; they are verified like the others.

    Hard links are safe here, since model files are never modified in place.
    """
    installed = {file.path: file for file in manifest.files}
    for piece in plan.pieces:
        record, target = installed.get(piece.path), new / piece.path
        if record is None or target.exists() or not (piece.sha256 or piece.blob):
            continue
        if is_same(record, piece, old, by_revision=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            # On a file system without hard links, the file is downloaded.
            with contextlib.suppress(OSError):
                os.link(old / piece.path, target)
