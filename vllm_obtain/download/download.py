"""Downloads one model: resolves the source, transfers and verifies the files, installs them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from msgspec import Struct

from vllm_obtain.config.settings import Settings
from vllm_obtain.download import manifest as manifests
from vllm_obtain.download.bundled_model import EMBEDDED
from vllm_obtain.download.file_transfer import FileTransfers
from vllm_obtain.download.install import finish_interrupted, install_version, recover
from vllm_obtain.download.library import FORMATS, NAME, Format, ModelLibrary, load
from vllm_obtain.download.manifest import FileRecord, Manifest
from vllm_obtain.download.model_ref import ModelRef, parse
from vllm_obtain.download.resolve import find
from vllm_obtain.download.staging import DownloadPlan, StagingDir, sweep
from vllm_obtain.errors import FetchFailed, InvalidRequest, ModelExists
from vllm_obtain.fs import sync_folder
from vllm_obtain.models.progress import Progress, ProgressCallback

# A scan of MODELS_DIR ignores names with these endings.
_ENDINGS: Final = (".part", ".partial", ".incomplete", ".lock", ".aria2", ".crdownload", ".toml")


class PullRequest(Struct, frozen=True):
    """A request to download a model.

    Args:
        reference: a model reference; see `model_ref.parse`.
        name: the local name; empty for the default.
        form: the format; empty selects the best one for this machine.
        force: whether to replace a downloaded model of that name.
        allow_paths: whether local paths are allowed.
    """

    reference: str
    name: str = ""
    form: str = ""
    force: bool = False
    allow_paths: bool = True


class ResolvedPull(Struct, frozen=True):
    """A validated pull request.

    Args:
        source: the requested model.
        name: the name of the model and its folder.
        form: the requested format; None selects the best one for this machine.
        force: whether to replace a downloaded model of that name.
        library: the catalog.
    """

    source: ModelRef
    name: str
    form: Format | None
    force: bool
    library: ModelLibrary


def validate(request: PullRequest, models_dir: Path) -> ResolvedPull:
    """Validate a pull request without network access.

    Raises:
        InvalidRequest: the reference, name or format is invalid.
        SourceNotFound: the name is not in the catalog.
        SettingsError: the user's catalogue.toml is invalid.
    """
    library = load(models_dir)
    source = parse(request.reference, request.allow_paths)
    name = request.name or source.stem
    if source.place == "name":
        exact, _ = library.find(source.where)
        source, name = ModelRef("name", exact), request.name or exact
    if not NAME.fullmatch(name) or name.lower().endswith(_ENDINGS):
        raise InvalidRequest(
            f"'{name[:200]}' is not a valid model name. Use up to 128 letters, digits, '.', '_' "
            "and '-'.",
            param="name",
        )
    if request.form and request.form not in FORMATS:
        raise InvalidRequest(
            f"Unknown format '{request.form}'. Use one of: {', '.join(FORMATS)}.", param="format"
        )
    form: Format | None = next((each for each in FORMATS if each == request.form), None)
    return ResolvedPull(source, name, form, request.force, library)


def download_model(request: PullRequest, settings: Settings, on_progress: ProgressCallback) -> Path:
    """Download and install a model, unless it is installed. Concurrent calls share one download.

    Args:
        request: the model to download.
        settings: the service settings.
        on_progress: progress callback; not called for the final success or failure.

    Returns:
        The model's folder.

    Raises:
        ServiceError: the download failed; partial files are kept for the next attempt.
        SettingsError: the user's catalogue.toml is invalid.
    """
    pull = validate(request, settings.models_dir)
    try:
        settings.models_dir.mkdir(parents=True, exist_ok=True)
        return _download(pull, settings, on_progress)
    except OSError as error:
        raise FetchFailed(
            f"Cannot write to {settings.models_dir} ({error.strerror or error}). Set MODELS_DIR "
            "to a writable folder with enough free space, and try again.",
            retry=False,
        ) from error


def _download(pull: ResolvedPull, settings: Settings, on_progress: ProgressCallback) -> Path:
    target = settings.models_dir / pull.name
    if _is_installed(pull, target):
        return target
    recover(settings.models_dir)
    sweep(settings.models_dir)
    staging = StagingDir(settings.models_dir, pull.name)
    before = manifests.read(target)
    with staging.locked(lambda: report_other_download(staging, pull.name, on_progress)):
        after = manifests.read(target)
        # Another process may have completed the download while this one waited for the lock.
        # Its result is the latest revision, also with `force`.
        if _is_installed(pull, target) or (after is not None and after != before):
            return target
        on_progress(Progress("looking", pull.name))
        hub, plan = find(pull.source, pull.name, pull.form, pull.library, settings, staging)
        staging.begin(plan)
        files = FileTransfers(hub, plan, staging, pull.name, on_progress).all()
        install_version(
            finish(staging, plan, files, pull.name, str(pull.source)), target, keep=False
        )
        staging.clear()
        finish_interrupted(settings.models_dir)
    return target


def _is_installed(pull: ResolvedPull, target: Path) -> bool:
    """Whether the requested model is installed and complete.

    Raises:
        ModelExists: another model has that name.
    """
    if not os.path.lexists(target):
        return False
    installed = manifests.read(target) if target.is_dir() else None
    if installed is None:
        if pull.name == EMBEDDED.name and pull.source.place == "name" and not pull.force:
            return EMBEDDED.is_intact(target.parent)
        raise ModelExists(
            f"{target} exists and was not created by `pull`. Choose another name (--name), or "
            "remove it."
        )
    same = installed.asked == str(pull.source) and pull.form in (None, installed.form)
    if pull.force:
        return False
    if not same:
        raise ModelExists(
            f"'{pull.name}' is already installed, as {installed.form} from {installed.source}. "
            "Choose another name (--name), or replace it (--force)."
        )
    return not list(manifests.faults(target, installed, whole=False))


def report_other_download(staging: StagingDir, name: str, on_progress: ProgressCallback) -> None:
    """Report the progress of the process that holds the lock of the same download."""
    plan = staging.plan
    source = str(plan.source) if plan else ""
    total = plan.total if plan else 0
    on_progress(Progress("waiting", name, source, min(staging.done, total), total))


def finish(
    staging: StagingDir, plan: DownloadPlan, files: list[FileRecord], name: str, reference: str
) -> Path:
    """Complete a staged model: remove stray files and write the manifest.

    Args:
        staging: the staging folder.
        plan: the download plan.
        files: the downloaded files.
        name: the model's name.
        reference: the requested reference, which an update resolves again.

    Returns:
        The folder with the model's files.
    """
    names = {file.path for file in files}
    for path in sorted(staging.files.rglob("*"), reverse=True):
        # Client libraries leave metadata beside the files.
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.is_file() and str(path.relative_to(staging.files)) not in names:
            path.unlink()
    now = int(time.time())
    manifest = Manifest(name, reference, str(plan.source), plan.revision, plan.form, now, files)
    manifests.write(staging.files, manifest)
    sync_folder(staging.files)
    return staging.files
