"""Puts new versions of models in place: those that are loaded only when the new one has loaded."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.errors import FetchFailed
from vllm_obtain.fetching import manifest as manifests
from vllm_obtain.fetching.comparing import fetched
from vllm_obtain.fetching.placing import previous, put, settle
from vllm_obtain.fetching.progress import Progress, Say
from vllm_obtain.fetching.updating import being_fetched, readable, require_previous
from vllm_obtain.fetching.workplace import Workplace
from vllm_obtain.log import get_logger
from vllm_obtain.supervisor.pool import Pool

log = get_logger("vllm_obtain.models")


class Replacement:
    """Replaces models of one service.

    Args:
        pool: knows who is loaded.
        catalogue: the models on disk.
        models_dir: where they are.
    """

    def __init__(self, pool: Pool, catalogue: Catalogue, models_dir: Path) -> None:
        self._pool = pool
        self._catalogue = catalogue
        self._models_dir = models_dir.absolute()

    async def put(self, staged: Progress, keep: bool, say: Say) -> Progress:
        """Put a version in place that was brought beside the one that is there.

        Args:
            staged: what the child said of it.
            keep: whether the version before is kept.
            say: told how far it is.

        Returns:
            What there is to tell in the end.

        Raises:
            ServiceError: it does not load, or cannot be moved; the old one is in place, and serves.
        """
        (found,) = fetched(self._models_dir, [staged.name])
        place = Workplace(self._models_dir, found.name)
        # The child had the lock and is gone: somebody else may have been quicker.
        with place.held(being_fetched(found.name)):
            made = manifests.read(place.files)
            if made is None or list(manifests.faults(place.files, made, whole=False)):
                raise FetchFailed(
                    f"The new version of '{found.name}' was touched by somebody else before it was "
                    "in place. Update again.",
                    retry=False,
                )
            target = self._models_dir / found.name
            await self._replace(place.files, target, keep, say)
            await asyncio.to_thread(place.clear)
        log.info("updated", model=found.name, revision=made.revision, before=found.revision)
        return Progress("done", found.name, made.source, made.size, made.size, path=str(target))

    async def rollback(self, name: str, say: Say) -> Progress:
        """Put the version before in place; that one is kept then.

        Args:
            name: the model's.
            say: told how far it is.

        Raises:
            ServiceError: as in `put`, or there is none.
        """
        (found,) = fetched(self._models_dir, [name])
        target = self._models_dir / found.name
        say(Progress("checking", found.name))
        with Workplace(self._models_dir, found.name).held(being_fetched(found.name)):
            made = await asyncio.to_thread(require_previous, target)
            await self._replace(previous(self._models_dir, found.name), target, True, say)
        log.info("rolled back", model=found.name, revision=made.revision, before=found.revision)
        return Progress("done", found.name, made.source, made.size, made.size, path=str(target))

    async def _replace(self, new: Path, target: Path, keep: bool, say: Say) -> None:
        await asyncio.to_thread(self._catalogue.models)
        served = [
            each
            for each in self._catalogue.known()
            if each.base is None and each.path.is_relative_to(target)
        ]
        model = await asyncio.to_thread(readable, new, served[0].name if served else target.name)

        def commit() -> Callable[[Model], Model]:
            _put(new, target, keep)
            return lambda model: _moved(model, new, target)

        def loading() -> None:
            say(Progress("loading", target.name, done=model.size_bytes, total=model.size_bytes))

        await self._pool.renew(model, commit, loading)
        await asyncio.to_thread(self._catalogue.models)
        await asyncio.to_thread(settle, self._models_dir)


def _put(new: Path, target: Path, keep: bool) -> None:
    try:
        put(new, target, keep)
    except OSError as error:
        raise FetchFailed(
            f"The new version can't be put in place ({error.strerror or error}); '{target.name}' "
            "is as it was.",
            retry=False,
        ) from error


def _moved(model: Model, before: Path, after: Path) -> Model:
    """A model whose folder has another name."""
    projector = model.projector
    if projector is not None:
        path = after / projector.path.relative_to(before)
        projector = dataclasses.replace(projector, path=path)
    # What it was converted to lies below its folder too.
    path = after / model.path.relative_to(before)
    return dataclasses.replace(model, path=path, projector=projector)
