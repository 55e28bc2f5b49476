"""Compares models that were fetched with their manifests: each file's checksum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from vllm_obtain.catalogue.embedded import EMBEDDED
from vllm_obtain.errors import NotFetched
from vllm_obtain.fetching import manifest as manifests


class Verdict(Struct, frozen=True):
    """What is wrong with a model.

    Args:
        name: its name.
        asked: what was asked for.
        source: who gave it.
        faults: what is wrong, in a few words per file; none when it is as it was fetched.
    """

    name: str
    asked: str
    source: str
    faults: list[str]


def verdicts(models_dir: Path, names: Sequence[str] = ()) -> list[Verdict]:
    """Say of models what is wrong with them.

    Args:
        models_dir: where they are.
        names: of those that are wanted, capitals or not; none for all that were fetched.

    Raises:
        NotFetched: one of them was not.
    """
    wanted = {name.casefold(): name for name in names}
    folders = sorted(each for each in models_dir.glob("*") if each.is_dir() and each.name[0] != ".")
    chosen = [each for each in folders if not names or each.name.casefold() in wanted]
    found = [verdict for folder in chosen for verdict in _of(folder)]
    for each in found:
        wanted.pop(each.name.casefold(), None)
    if wanted:
        raise NotFetched(
            f"'{next(iter(wanted.values()))[:200]}' was not fetched by `pull`, so nobody knows "
            "what it should be."
        )
    return found


def _of(folder: Path) -> Iterator[Verdict]:
    if (found := manifests.read(folder)) is not None:
        faults = list(manifests.faults(folder, found))
        yield Verdict(folder.name, found.asked, found.source, faults)
    elif folder.name == EMBEDDED.name and EMBEDDED.path(folder.parent).is_file():
        whole = EMBEDDED.is_intact(folder.parent)
        faults = [] if whole else [f"{EMBEDDED.path(folder.parent).name} is not as published"]
        yield Verdict(folder.name, folder.name, f"pypi:{EMBEDDED.requirement}", faults)
