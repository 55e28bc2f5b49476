"""Compares a model that was fetched with what its source has now; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from vllm_obtain.errors import NotFetched, ServiceError, SourceNotFound
from vllm_obtain.fetching import finding, forms
from vllm_obtain.fetching import manifest as manifests
from vllm_obtain.fetching.finding import Asked
from vllm_obtain.fetching.hub import Unreachable, make
from vllm_obtain.fetching.known import FORMS, Form, Known, load
from vllm_obtain.fetching.manifest import Kept, Manifest
from vllm_obtain.fetching.package import newest
from vllm_obtain.fetching.pieces import Piece
from vllm_obtain.fetching.placing import previous
from vllm_obtain.fetching.source import Source, parse
from vllm_obtain.fetching.workplace import Plan, Workplace
from vllm_obtain.settings import Settings


class FileChange(Struct, frozen=True):
    """A file that would change.

    Args:
        path: below the model's folder.
        change: what would become of it.
        size: bytes that would come, None when the source does not say.
    """

    path: str
    change: Literal["new", "changed", "removed"]
    size: int | None = 0


class Change(Struct, frozen=True):
    """What an update of a model would be.

    Args:
        name: the model's.
        state: `failed`: its source does not answer, or no longer has it.
        source: who was asked.
        here: the revision that is here.
        there: the one that the source has, empty while that is not known.
        files: those that would change; none for a package, which is not opened to look.
        download: bytes that would come, None when the source does not say.
        previous: whether the version before is kept, so that it can be put back.
        error: what is wrong.
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


def sources(found: Manifest, known: Known) -> Asked:
    """List who is asked for the present state of a model, with its format.

    It is the one that it came from, as long as its name still means that one.

    Args:
        found: the model's manifest.
        known: the names there are.
    """
    form: Form | None = next((each for each in FORMS if each == found.form), None)
    asked = parse(found.asked)
    if asked.place != "name":
        return [(form, asked)]
    try:
        _, entry = known.find(asked.where)
        offers = forms.sources(entry, form, FORMS, "auto")
    except SourceNotFound:
        return [(form, parse(found.source))]
    same = [each for each in offers if str(each[1]) == found.source]
    return same or offers


def look(settings: Settings, names: Sequence[str] = ()) -> list[Change]:
    """Compare models with what their sources have now.

    Args:
        settings: the owner's.
        names: of those that are wanted; none for all that were fetched.

    Raises:
        NotFetched: one of them was not.
        SettingsError: the owner's file of names is not right.
    """
    models_dir = settings.models_dir
    found = fetched(models_dir, names)
    comparison = Comparison(settings, load(models_dir))
    return [comparison.of(each, previous(models_dir, each.name).is_dir()) for each in found]


class Comparison:
    """Compares one model after the other; a hub that does not answer is asked once.

    Args:
        settings: the owner's.
        known: the names there are.
    """

    def __init__(self, settings: Settings, known: Known) -> None:
        self._settings = settings
        self._known = known
        self._away: dict[str, str] = {}

    def of(self, found: Manifest, before: bool) -> Change:
        """Compare one.

        Args:
            found: its manifest.
            before: whether the version before it is kept.
        """
        asked = sources(found, self._known)
        said: list[str] = []
        for form, source in asked:
            if source.place in self._away:
                said.append(f"{source}: it does not answer ({self._away[source.place]}).")
                continue
            try:
                return self._with(found, source, form, before)
            except Unreachable as error:
                self._away[source.place] = str(error)
                said.append(f"{source}: it does not answer ({error}).")
            except ServiceError as error:
                said.append(f"{source}: {error.message}")
        told = asked[0][1]
        return Change(
            found.name, "failed", str(told), found.revision, previous=before, error=" ".join(said)
        )

    def _with(self, found: Manifest, source: Source, form: Form | None, before: bool) -> Change:
        name, here, told = found.name, found.revision, str(source)
        if source.place == "pypi":
            there = newest(source, here)
            state: Literal["current", "update"] = "current" if there == here else "update"
            download = 0 if there == here else None
            return Change(name, state, told, here, there, [], download, before)
        place = Workplace(self._settings.models_dir, name)
        hub = make(source, self._settings, place.folder)
        wishes = forms.wanted(name, self._settings)
        plan = finding.plan(hub.listing(), source, form, wishes)
        files = list(differences(found, plan, self._settings.models_dir / name))
        sizes = [each.size for each in files]
        download = None if None in sizes else sum(size or 0 for size in sizes)
        return Change(
            *(name, "update" if files else "current", told, here, plan.revision),
            *(files, download, before),
        )


def differences(found: Manifest, plan: Plan, folder: Path) -> Iterator[FileChange]:
    """Say which files would change.

    Args:
        found: what is here.
        plan: what the source has.
        folder: the model's.
    """
    here = {file.path: file for file in found.files}
    for piece in plan.pieces:
        kept = here.pop(piece.path, None)
        if kept is None:
            yield FileChange(piece.path, "new", piece.size)
        elif not is_same(kept, piece, folder, plan.revision == found.revision):
            yield FileChange(piece.path, "changed", piece.size)
    for path in here:
        yield FileChange(path, "removed")


def is_same(kept: Kept, piece: Piece, folder: Path, by_revision: bool) -> bool:
    """Whether a file that the source has is the one that is here.

    Args:
        kept: the one that is here, as it was fetched.
        piece: the one that the source has.
        folder: the model's.
        by_revision: whether the source says that nothing changed; used when it says no checksum.
    """
    if piece.size is not None and piece.size != kept.size:
        return False
    if piece.sha256:
        return piece.sha256 == kept.sha256
    if not piece.blob:
        return by_revision
    if kept.blob:
        return piece.blob == kept.blob
    path = folder / kept.path
    return path.is_file() and manifests.blob(path) == piece.blob


def fetched(models_dir: Path, names: Sequence[str] = ()) -> list[Manifest]:
    """List the models that were fetched, by name.

    Args:
        models_dir: where they are.
        names: those that are wanted, capitals or not; none for all.

    Raises:
        NotFetched: one of them was not.
    """
    folders = sorted(each for each in models_dir.glob("*") if each.is_dir() and each.name[0] != ".")
    found = [(each.name, made) for each in folders if (made := manifests.read(each)) is not None]
    # A folder that its owner gave another name has that one.
    all_ = [replace(made, name=name) for name, made in found]
    if not names:
        return all_
    by_name = {each.name.casefold(): each for each in all_}
    for name in names:
        if name.casefold() not in by_name:
            raise NotFetched(
                f"'{name[:200]}' was not fetched by `pull`, so nobody knows where it comes from or "
                "what it should be."
            )
    return [by_name[name.casefold()] for name in dict.fromkeys(names)]
