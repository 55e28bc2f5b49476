"""Fetches one model: finds who has it, brings its files, checks them, and makes it visible."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from msgspec import Struct

from vllm_obtain.catalogue.embedded import EMBEDDED
from vllm_obtain.errors import FetchFailed, InvalidRequest, ModelExists
from vllm_obtain.fetching import manifest as manifests
from vllm_obtain.fetching.bringing import Bringing
from vllm_obtain.fetching.finding import find
from vllm_obtain.fetching.known import FORMS, NAME, Form, Known, load
from vllm_obtain.fetching.manifest import Kept, Manifest
from vllm_obtain.fetching.placing import heal, put, settle, sync
from vllm_obtain.fetching.progress import Progress, Say
from vllm_obtain.fetching.source import Source, parse
from vllm_obtain.fetching.workplace import Plan, Workplace, sweep
from vllm_obtain.settings import Settings

# What a scan of MODELS_DIR takes for something unfinished.
_ENDINGS: Final = (".part", ".partial", ".incomplete", ".lock", ".aria2", ".crdownload", ".toml")


class Request(Struct, frozen=True):
    """What somebody wants.

    Args:
        what: a name, or where it is; see `source.parse`.
        name: its name here, empty for the usual one.
        form: the format, empty for the one that suits this machine.
        force: whether a fetched model of that name is replaced.
        here: whether it was typed on this machine.
    """

    what: str
    name: str = ""
    form: str = ""
    force: bool = False
    here: bool = True


class Wanted(Struct, frozen=True):
    """A request, understood.

    Args:
        source: what was asked for.
        name: the model's, and its folder's.
        form: the format, None for what suits.
        force: whether a fetched model of that name is replaced.
        known: the names there are.
    """

    source: Source
    name: str
    form: Form | None
    force: bool
    known: Known


def understand(request: Request, models_dir: Path) -> Wanted:
    """Check a request, without a look at the network.

    Raises:
        InvalidRequest: it cannot be meant.
        SourceNotFound: nobody knows that name.
        SettingsError: the owner's file of names is not right.
    """
    known = load(models_dir)
    source = parse(request.what, request.here)
    name = request.name or source.stem
    if source.place == "name":
        exact, _ = known.find(source.where)
        source, name = Source("name", exact), request.name or exact
    if not NAME.fullmatch(name) or name.lower().endswith(_ENDINGS):
        raise InvalidRequest(
            f"'{name[:200]}' can be no model's name: letters, digits, '.', '_' and '-' are, up to "
            "128 of them.",
            param="name",
        )
    if request.form and request.form not in FORMS:
        raise InvalidRequest(
            f"'{request.form}' is no format. Use one of: {', '.join(FORMS)}.", param="format"
        )
    form: Form | None = next((each for each in FORMS if each == request.form), None)
    return Wanted(source, name, form, request.force, known)


def fetch(request: Request, settings: Settings, say: Say) -> Path:
    """Fetch a model, unless it is here. Safe to call twice at once: there is one download.

    Args:
        request: what is wanted.
        settings: the owner's.
        say: told how far it is; the end of it comes as the return or the exception.

    Returns:
        The model's folder.

    Raises:
        ServiceError: it cannot be had; what has arrived is kept for the next try.
        SettingsError: the owner's file of names is not right.
    """
    wanted = understand(request, settings.models_dir)
    try:
        settings.models_dir.mkdir(parents=True, exist_ok=True)
        return _fetch(wanted, settings, say)
    except OSError as error:
        raise FetchFailed(
            f"It can't be written to {settings.models_dir} ({error.strerror or error}): set "
            "MODELS_DIR to a folder that can be written and has space, and try again.",
            retry=False,
        ) from error


def _fetch(wanted: Wanted, settings: Settings, say: Say) -> Path:
    target = settings.models_dir / wanted.name
    if _is_here(wanted, target):
        return target
    heal(settings.models_dir)
    sweep(settings.models_dir)
    place = Workplace(settings.models_dir, wanted.name)
    before = manifests.read(target)
    with place.held(lambda: tell_of_another(place, wanted.name, say)):
        after = manifests.read(target)
        # Whoever held the lock has perhaps just finished; with `force` too, that is the newest.
        if _is_here(wanted, target) or (after is not None and after != before):
            return target
        say(Progress("looking", wanted.name))
        hub, plan = find(wanted.source, wanted.name, wanted.form, wanted.known, settings, place)
        place.begin(plan)
        kept = Bringing(hub, plan, place, wanted.name, say).all()
        put(finish(place, plan, kept, wanted.name, str(wanted.source)), target, keep=False)
        place.clear()
        settle(settings.models_dir)
    return target


def _is_here(wanted: Wanted, target: Path) -> bool:
    """Whether this very model is here.

    Raises:
        ModelExists: another one is.
    """
    if not os.path.lexists(target):
        return False
    found = manifests.read(target) if target.is_dir() else None
    if found is None:
        if wanted.name == EMBEDDED.name and wanted.source.place == "name" and not wanted.force:
            return EMBEDDED.is_intact(target.parent)
        raise ModelExists(
            f"{target} was put there by somebody else and is left alone. Give another name "
            "(--name), or remove it."
        )
    same = found.asked == str(wanted.source) and wanted.form in (None, found.form)
    if wanted.force:
        return False
    if not same:
        raise ModelExists(
            f"'{wanted.name}' is here already, as {found.form} from {found.source}. Give another "
            "name (--name), or replace it (--force)."
        )
    return not list(manifests.faults(target, found, whole=False))


def tell_of_another(place: Workplace, name: str, say: Say) -> None:
    """Say how far the other process is that fetches the same."""
    plan = place.plan
    source = str(plan.source) if plan else ""
    total = plan.total if plan else 0
    say(Progress("waiting", name, source, min(place.done, total), total))


def finish(place: Workplace, plan: Plan, kept: list[Kept], name: str, asked: str) -> Path:
    """Make what has arrived a whole model: nothing in it but its files and its manifest.

    Args:
        place: where it is.
        plan: what was to be fetched.
        kept: what was.
        name: the model's.
        asked: what was asked for.

    Returns:
        Its folder.
    """
    names = {file.path for file in kept}
    for path in sorted(place.files.rglob("*"), reverse=True):
        # What a client library left beside its files.
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.is_file() and str(path.relative_to(place.files)) not in names:
            path.unlink()
    now = int(time.time())
    made = Manifest(name, asked, str(plan.source), plan.revision, plan.form, now, kept)
    manifests.write(place.files, made)
    sync(place.files)
    return place.files
