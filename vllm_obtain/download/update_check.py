"""Compares downloaded models with the current state of their sources, without changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from vllm_obtain.config.settings import Settings
from vllm_obtain.download import format_choice, resolve
from vllm_obtain.download import manifest as manifests
from vllm_obtain.download.file_selection import RepoFile
from vllm_obtain.download.hubs.base import Unreachable
from vllm_obtain.download.hubs.pypi import newest
from vllm_obtain.download.hubs.select import create_hub
from vllm_obtain.download.install import previous
from vllm_obtain.download.library import FORMATS, Format, ModelLibrary, load
from vllm_obtain.download.manifest import FileRecord, Manifest
from vllm_obtain.download.model_ref import ModelRef, parse
from vllm_obtain.download.resolve import Candidates
from vllm_obtain.download.staging import DownloadPlan, StagingDir
from vllm_obtain.errors import NotFetched, ServiceError, SourceNotFound


class FileChange(Struct, frozen=True):
    """A file that an update would change.

    Args:
        path: the path below the model's folder.
        change: the kind of change.
        size: bytes of the new file, None if unknown.
    """

    path: str
    change: Literal["new", "changed", "removed"]
    size: int | None = 0


class ModelChange(Struct, frozen=True):
    """The result of an update check.

    Args:
        name: the model's name.
        state: `failed` if the source is unreachable or no longer has the model.
        source: the source that was checked.
        here: the installed revision.
        there: the latest revision of the source, empty if unknown.
        files: the files that would change; empty for a package, which is not downloaded to check.
        download: bytes to download, None if unknown.
        previous: whether a previous version is kept for a rollback.
        error: the reason for `failed`.
    """

    name: str
    state: Literal["current", "update", "failed"]
    source: str
    here: str
    there: str = ""
    files: list[FileChange] = []
    download: int | None = 0
    previous: bool = False
    error: str = ""


def sources(manifest: Manifest, library: ModelLibrary) -> Candidates:
    """List the sources to check for updates of a model, with the format to take.

    A model that was requested by name is updated from the source that it was downloaded from, as
    long as the catalog lists that source under the name.

    Args:
        manifest: the model's manifest.
        library: the catalog.
    """
    model_format: Format | None = next((each for each in FORMATS if each == manifest.form), None)
    requested = parse(manifest.asked)
    if requested.place != "name":
        return [(model_format, requested)]
    try:
        _, entry = library.find(requested.where)
        candidates = format_choice.sources(entry, model_format, FORMATS, "auto")
    except SourceNotFound:
        return [(model_format, parse(manifest.source))]
    same = [each for each in candidates if str(each[1]) == manifest.source]
    return same or candidates


def check_updates(settings: Settings, names: Sequence[str] = ()) -> list[ModelChange]:
    """Check models for updates.

    Args:
        settings: the service settings.
        names: the models to check; empty for all downloaded models.

    Raises:
        NotFetched: one of the models was not downloaded.
        SettingsError: the user's catalogue.toml is invalid.
    """
    models_dir = settings.models_dir
    manifests_ = downloaded_models(models_dir, names)
    comparison = Comparison(settings, load(models_dir))
    return [comparison.of(each, previous(models_dir, each.name).is_dir()) for each in manifests_]


class Comparison:
    """Checks models for updates; an unreachable hub is tried once for all of them.

    Args:
        settings: the service settings.
        library: the catalog.
    """

    def __init__(self, settings: Settings, library: ModelLibrary) -> None:
        self._settings = settings
        self._library = library
        self._unreachable: dict[str, str] = {}

    def of(self, manifest: Manifest, before: bool) -> ModelChange:
        """Check one model.

        Args:
            manifest: the model's manifest.
            before: whether a previous version is kept.
        """
        candidates = sources(manifest, self._library)
        failures: list[str] = []
        for model_format, source in candidates:
            if source.place in self._unreachable:
                failures.append(f"{source}: unreachable ({self._unreachable[source.place]}).")
                continue
            try:
                return self._compare(manifest, source, model_format, before)
            except Unreachable as error:
                self._unreachable[source.place] = str(error)
                failures.append(f"{source}: unreachable ({error}).")
            except ServiceError as error:
                failures.append(f"{source}: {error.message}")
        return ModelChange(
            manifest.name,
            "failed",
            str(candidates[0][1]),
            manifest.revision,
            previous=before,
            error=" ".join(failures),
        )

    def _compare(
        self, manifest: Manifest, source: ModelRef, model_format: Format | None, before: bool
    ) -> ModelChange:
        name, installed = manifest.name, manifest.revision
        if source.place == "pypi":
            latest = newest(source, installed)
            state: Literal["current", "update"] = "current" if latest == installed else "update"
            download = 0 if latest == installed else None
            return ModelChange(name, state, str(source), installed, latest, [], download, before)
        staging = StagingDir(self._settings.models_dir, name)
        hub = create_hub(source, self._settings, staging.folder)
        formats = format_choice.choose_format(name, self._settings)
        plan = resolve.plan(hub.listing(), source, model_format, formats)
        changes = list(differences(manifest, plan, self._settings.models_dir / name))
        sizes = [change.size for change in changes]
        download = None if None in sizes else sum(size or 0 for size in sizes)
        return ModelChange(
            *(name, "update" if changes else "current", str(source), installed, plan.revision),
            *(changes, download, before),
        )


def differences(manifest: Manifest, plan: DownloadPlan, folder: Path) -> Iterator[FileChange]:
    """List the files that an update would change.

    Args:
        manifest: the manifest of the installed version.
        plan: the files of the source.
        folder: the model's folder.
    """
    installed = {file.path: file for file in manifest.files}
    for piece in plan.pieces:
        record = installed.pop(piece.path, None)
        if record is None:
            yield FileChange(piece.path, "new", piece.size)
        elif not is_same(record, piece, folder, plan.revision == manifest.revision):
            yield FileChange(piece.path, "changed", piece.size)
    for path in installed:
        yield FileChange(path, "removed")


def is_same(record: FileRecord, piece: RepoFile, folder: Path, by_revision: bool) -> bool:
    """Whether an installed file is the same as the file of the source.

    Args:
        record: the installed file, from the manifest.
        piece: the file of the source.
        folder: the model's folder.
        by_revision: the result when the source publishes no checksum: whether its revision is
            the installed one.
    """
    if piece.size is not None and piece.size != record.size:
        return False
    if piece.sha256:
        return piece.sha256 == record.sha256
    if not piece.blob:
        return by_revision
    if record.blob:
        return piece.blob == record.blob
    path = folder / record.path
    return path.is_file() and manifests.blob(path) == piece.blob


def downloaded_models(models_dir: Path, names: Sequence[str] = ()) -> list[Manifest]:
    """List the manifests of downloaded models, sorted by name.

    Args:
        models_dir: MODELS_DIR.
        names: the models to list, case-insensitive; empty for all.

    Raises:
        NotFetched: one of the models was not downloaded.
    """
    folders = sorted(path for path in models_dir.glob("*") if path.is_dir() and path.name[0] != ".")
    # The folder name wins over the name in the manifest, since a user may rename the folder.
    all_ = [
        replace(manifest, name=folder.name)
        for folder in folders
        if (manifest := manifests.read(folder)) is not None
    ]
    if not names:
        return all_
    by_name = {each.name.casefold(): each for each in all_}
    for name in names:
        if name.casefold() not in by_name:
            raise NotFetched(
                f"'{name[:200]}' was not downloaded with `pull`, so its source is unknown. "
                "Download it with `pull` to update it."
            )
    return [by_name[name.casefold()] for name in dict.fromkeys(names)]
