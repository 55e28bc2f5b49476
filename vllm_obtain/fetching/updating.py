"""Brings the version that a model's source has now, and puts it in the place of the one here.

The old one is whole and in its place until the new one is complete, checked and readable; whoever
has it loaded puts the new one in place himself, when that has loaded too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from vllm_obtain.catalogue import Model
from vllm_obtain.catalogue.scan import scan
from vllm_obtain.errors import Conflict, FetchFailed, NoPrevious
from vllm_obtain.fetching import finding
from vllm_obtain.fetching import manifest as manifests
from vllm_obtain.fetching.bringing import Bringing
from vllm_obtain.fetching.comparing import Comparison, fetched, is_same, sources
from vllm_obtain.fetching.fetch import finish, tell_of_another
from vllm_obtain.fetching.known import load
from vllm_obtain.fetching.manifest import Manifest
from vllm_obtain.fetching.placing import heal, previous, put, settle
from vllm_obtain.fetching.progress import Progress, Say
from vllm_obtain.fetching.workplace import Plan, Workplace, sweep
from vllm_obtain.settings import Settings

Place = Callable[[Path], None]


class NotReadable(FetchFailed):
    """A new version is no model that can be read; the old one stays."""

    code = "update_not_readable"


class BeingFetched(Conflict):
    """Another process has its hands on the model."""

    code = "model_being_fetched"


def stage(name: str, settings: Settings, say: Say, place: Place | None = None) -> Path | None:
    """Bring a new version, if there is one; safe beside whoever else fetches the model.

    Args:
        name: the model's.
        settings: the owner's.
        say: told how far it is.
        place: puts it in place, while nobody else can touch it.

    Returns:
        The new version's folder, or where `place` has put it; None when there is none.

    Raises:
        ServiceError: it cannot be had; the old one is as it was.
        SettingsError: the owner's file of names is not right.
    """
    (found,) = fetched(settings.models_dir, [name])
    try:
        return _stage(found, settings, say, place)
    except OSError as error:
        raise FetchFailed(
            f"It can't be written to {settings.models_dir} ({error.strerror or error}); "
            f"'{found.name}' is as it was.",
            retry=False,
        ) from error


def _stage(found: Manifest, settings: Settings, say: Say, put_there: Place | None) -> Path | None:
    models_dir, name = settings.models_dir, found.name
    require_own(models_dir / name)
    heal(models_dir)
    sweep(models_dir)
    place, known = Workplace(models_dir, name), load(models_dir)
    with place.held(lambda: tell_of_another(place, name, say)):
        # Who held it has perhaps just brought the new one.
        (found,) = fetched(models_dir, [name])
        say(Progress("looking", name, found.source))
        change = Comparison(settings, known).of(found, before=False)
        if change.state == "failed":
            raise FetchFailed(f"{change.error} '{name}' is as it was.", retry_after=60)
        if change.state == "current":
            return None
        hub, plan = finding.ask(sources(found, known), name, settings, place)
        place.begin(plan)
        _take_over(found, plan, models_dir / name, place.files)
        kept = Bringing(hub, plan, place, name, say).all()
        folder = finish(place, plan, kept, name, found.asked)
        readable(folder, name)
        if put_there is not None:
            put_there(folder)
            place.clear()
            return models_dir / name
        return folder


def update(
    name: str, settings: Settings, say: Say, keep: bool, last: Callable[[], None] | None = None
) -> bool:
    """Update a model that nobody uses.

    Args:
        name: the model's.
        settings: the owner's.
        say: told how far it is.
        keep: whether the version before is kept.
        last: called when the new version is whole and not in place yet; may raise to leave it so.

    Returns:
        Whether there was anything to do.

    Raises:
        ServiceError, SettingsError: as in `stage`.
    """
    target = settings.models_dir / fetched(settings.models_dir, [name])[0].name

    def place(folder: Path) -> None:
        if last is not None:
            last()
        put(folder, target, keep)

    done = stage(name, settings, say, place)
    settle(settings.models_dir)
    return done is not None


def rollback(name: str, settings: Settings) -> Manifest:
    """Put the version before back in place of a model that nobody uses; that one is kept then.

    Returns:
        What is in place then.

    Raises:
        ServiceError: there is none, or it is damaged; nothing has changed.
    """
    (found,) = fetched(settings.models_dir, [name])
    target = settings.models_dir / found.name
    with Workplace(settings.models_dir, found.name).held(being_fetched(found.name)):
        before = require_previous(target)
        try:
            put(previous(target.parent, target.name), target, keep=True)
        except OSError as error:
            raise FetchFailed(
                f"It can't be put in place ({error.strerror or error}); '{target.name}' is as it "
                "was.",
                retry=False,
            ) from error
        settle(settings.models_dir)
    return before


def require_previous(target: Path) -> Manifest:
    """Read the manifest of the version before a model's, and check each of its files.

    Raises:
        NoPrevious: there is none.
        FetchFailed: it is damaged, or the model lies behind a link.
    """
    require_own(target)
    folder = previous(target.parent, target.name)
    found = manifests.read(folder)
    if found is None:
        raise NoPrevious(
            f"No version before the present one of '{target.name}' is kept: an update keeps one, "
            "unless it is told not to or the room is needed."
        )
    if faults := list(manifests.faults(folder, found)):
        raise FetchFailed(
            f"The version before of '{target.name}' is damaged: {faults[0]}.", retry=False
        )
    readable(folder, target.name)
    return replace(found, name=target.name)


def require_own(target: Path) -> None:
    """Refuse a model whose folder is a link: what it leads to is somebody else's.

    Raises:
        FetchFailed: it is one.
    """
    if target.is_symlink():
        raise FetchFailed(
            f"'{target.name}' lies behind a link, where it is not ours to replace.", retry=False
        )


def being_fetched(name: str) -> Callable[[], None]:
    """What to do when another process holds a model: say so, and do not wait."""

    def refuse() -> None:
        raise BeingFetched(f"Another process fetches or replaces '{name}'. Try again later.")

    return refuse


def readable(folder: Path, name: str) -> Model:
    """Read the model of a folder that is not in its place yet.

    Args:
        folder: with its manifest.
        name: what the model is called.

    Raises:
        NotReadable: its files are no model.
    """
    models = scan(folder)
    problem = next((each.problem for each in models if each.problem), None)
    if problem or not models:
        raise NotReadable(
            f"The new version of '{name}' is no model that can be read: "
            f"{problem or 'it has no weights'}. The old one stays.",
            retry=False,
        )
    return dataclasses.replace(models[0], name=name)


def _take_over(found: Manifest, plan: Plan, old: Path, new: Path) -> None:
    """Take what has not changed from the old version, without a copy; it is checked like the rest.

    Nothing here is ever written in place, so two names for one file do no harm.
    """
    here = {file.path: file for file in found.files}
    for piece in plan.pieces:
        kept, target = here.get(piece.path), new / piece.path
        if kept is None or target.exists() or not (piece.sha256 or piece.blob):
            continue
        if is_same(kept, piece, old, by_revision=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Where the disk cannot do that, it is fetched.
            with contextlib.suppress(OSError):
                os.link(old / piece.path, target)
