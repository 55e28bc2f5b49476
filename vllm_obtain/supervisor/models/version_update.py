"""Installs new revisions of models. A loaded model is switched after the new one has loaded."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

from vllm_obtain.download import manifest as manifests
from vllm_obtain.download.install import finish_interrupted, install_version, previous
from vllm_obtain.download.staging import StagingDir
from vllm_obtain.download.update import read_staged_model, refuse_while_locked, require_previous
from vllm_obtain.download.update_check import downloaded_models
from vllm_obtain.errors import FetchFailed
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.models.progress import Progress, ProgressCallback
from vllm_obtain.supervisor.models.pool import Pool

log = get_logger("vllm_obtain.models")


class VersionUpdate:
    """Updates and rolls back models of one service.

    Args:
        pool: the loaded models.
        catalogue: the models on disk.
        models_dir: MODELS_DIR.
    """

    def __init__(self, pool: Pool, catalogue: ModelCatalog, models_dir: Path) -> None:
        self._pool = pool
        self._catalogue = catalogue
        self._models_dir = models_dir.absolute()

    async def install(self, staged: Progress, keep: bool, report: ProgressCallback) -> Progress:
        """Install a downloaded revision that is in the staging folder.

        Args:
            staged: the last progress report of the download.
            keep: whether to keep the previous revision.
            report: called with the progress.

        Returns:
            The final progress.

        Raises:
            ServiceError: the new revision does not load or cannot be moved. The old one stays.
        """
        (local,) = downloaded_models(self._models_dir, [staged.name])
        staging = StagingDir(self._models_dir, local.name)
        # The child process has released the lock, so the staging folder may have changed.
        with staging.locked(refuse_while_locked(local.name)):
            manifest = manifests.read(staging.files)
            if manifest is None or list(manifests.faults(staging.files, manifest, whole=False)):
                raise FetchFailed(
                    f"The new revision of '{local.name}' changed before it was installed. Run the "
                    "update again.",
                    retry=False,
                )
            target = self._models_dir / local.name
            await self._replace(staging.files, target, keep, report)
            await asyncio.to_thread(staging.clear)
        log.info(
            "model updated", model=local.name, revision=manifest.revision, before=local.revision
        )
        return Progress(
            "done", local.name, manifest.source, manifest.size, manifest.size, path=str(target)
        )

    async def rollback(self, name: str, report: ProgressCallback) -> Progress:
        """Install the previous revision, and keep the current one.

        Args:
            name: name of the model.
            report: called with the progress.

        Raises:
            ServiceError: as in `install`, or there is no previous revision.
        """
        (local,) = downloaded_models(self._models_dir, [name])
        target = self._models_dir / local.name
        report(Progress("checking", local.name))
        with StagingDir(self._models_dir, local.name).locked(refuse_while_locked(local.name)):
            manifest = await asyncio.to_thread(require_previous, target)
            await self._replace(previous(self._models_dir, local.name), target, True, report)
        log.info(
            "model rolled back", model=local.name, revision=manifest.revision, before=local.revision
        )
        return Progress(
            "done", local.name, manifest.source, manifest.size, manifest.size, path=str(target)
        )

    async def _replace(self, new: Path, target: Path, keep: bool, report: ProgressCallback) -> None:
        await asyncio.to_thread(self._catalogue.models)
        served = [
            each
            for each in self._catalogue.known()
            if each.base is None and each.path.is_relative_to(target)
        ]
        model = await asyncio.to_thread(
            read_staged_model, new, served[0].name if served else target.name
        )

        def commit() -> Callable[[Model], Model]:
            _put(new, target, keep)
            return lambda model: _moved(model, new, target)

        def on_loading() -> None:
            report(Progress("loading", target.name, done=model.size_bytes, total=model.size_bytes))

        await self._pool.reload(model, commit, on_loading)
        await asyncio.to_thread(self._catalogue.models)
        await asyncio.to_thread(finish_interrupted, self._models_dir)


def _put(new: Path, target: Path, keep: bool) -> None:
    try:
        install_version(new, target, keep)
    except OSError as error:
        raise FetchFailed(
            f"The new revision cannot be installed ({error.strerror or error}). '{target.name}' "
            "is unchanged. Try again.",
            retry=False,
        ) from error


def _moved(model: Model, before: Path, after: Path) -> Model:
    """Return a model with its paths below another folder."""
    projector = model.projector
    if projector is not None:
        path = after / projector.path.relative_to(before)
        projector = dataclasses.replace(projector, path=path)
    # Converted files are below the model's folder too.
    path = after / model.path.relative_to(before)
    return dataclasses.replace(model, path=path, projector=projector)
