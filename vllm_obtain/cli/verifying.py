"""Comparing fetched models with their manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from vllm_obtain.catalogue.embedded import EMBEDDED
from vllm_obtain.cli.client import fail
from vllm_obtain.errors import SettingsError
from vllm_obtain.fetching import manifest as manifests
from vllm_obtain.settings import load_settings


def verdicts(name: str = "") -> list[dict[str, Any]]:
    """Say of one model, or all, what is wrong with it.

    Args:
        name: of the one; empty for all that were fetched.
    """
    try:
        models_dir = load_settings().models_dir
    except SettingsError as error:
        raise fail(error) from None
    folders = sorted(each for each in models_dir.glob("*") if each.is_dir() and each.name[0] != ".")
    found = [each for folder in folders if (each := _verdict(folder)) is not None]
    if not name:
        return found
    chosen = [each for each in found if each["name"].casefold() == name.casefold()]
    if not chosen:
        raise fail(f"'{name}' was not fetched by `pull`, so nobody knows what it should be.")
    return chosen


def show_verdicts(found: list[dict[str, Any]]) -> None:
    """Print what was found."""
    out = Console(highlight=False)
    if not found:
        out.print("Nothing here was fetched by `pull`.")
    for each in found:
        out.print(
            f"{each['name']}: {'as fetched' if not each['faults'] else 'damaged'}", markup=False
        )
        for fault in each["faults"]:
            out.print(f"  {fault}", markup=False)
        if each["faults"]:
            out.print(f"  Fetch it again: vllm-obtain pull {each['asked']} --force", markup=False)


def _verdict(folder: Path) -> dict[str, Any] | None:
    found = manifests.read(folder)
    if found is not None:
        faults = list(manifests.faults(folder, found))
        return {"name": folder.name, "asked": found.asked, "source": found.source, "faults": faults}
    if folder.name == EMBEDDED.name and EMBEDDED.path(folder.parent).is_file():
        whole = EMBEDDED.is_intact(folder.parent)
        faults = [] if whole else [f"{EMBEDDED.path(folder.parent).name} is not as published"]
        source = f"pypi:{EMBEDDED.requirement}"
        return {"name": folder.name, "asked": folder.name, "source": source, "faults": faults}
    return None
