"""What there is, as tables: models here, names that can be pulled, and one model's facts."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Console
from rich.table import Column, Table

from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.cli.client import fail, show_json
from vllm_obtain.errors import ModelNotFound, SettingsError, SourceNotFound
from vllm_obtain.fetching import known as names
from vllm_obtain.fetching import manifest as manifests
from vllm_obtain.settings import Settings, load_settings


def here() -> list[dict[str, Any]]:
    """Describe the models in MODELS_DIR, as `GET /v1/models` names things."""
    settings = _settings()
    catalogue = Catalogue(settings.models_dir, table=settings.models)
    return [_described(model, settings) for model in catalogue.models()]


def facts(name: str) -> dict[str, Any] | None:
    """Say what is known of a name: of the model here, else of what can be pulled."""
    settings = _settings()
    found: dict[str, Any] = {}
    try:
        exact, entry = names.load(settings.models_dir).find(name)
        family = names.load(settings.models_dir).family(entry)
        found = {"id": exact, "here": False, "known": msgspec.to_builtins(entry)}
        found["known"]["family"] = {"name": entry.family, **msgspec.to_builtins(family)}
    except SourceNotFound:
        pass
    except SettingsError as error:
        raise fail(error) from None
    try:
        model = Catalogue(settings.models_dir, table=settings.models).find(name)
    except ModelNotFound:
        return found or None
    return {**found, **_described(model, settings), "here": True}


def show(found: list[dict[str, Any]]) -> None:
    """Print a list of models."""
    out = Console(highlight=False)
    if not found:
        out.print("There is no model here. `vllm-obtain list --all` shows what can be pulled.")
        return
    table = Table(Column("name", no_wrap=True), "kind", "format", "size", "context", "remark")
    for each in found:
        remark = each.get("reason") or each.get("source") or ""
        if each.get("alias_of"):
            remark = f"another name of {each['alias_of']}"
        context = each.get("context_length")
        table.add_row(
            each["id"],
            each.get("kind") or "",
            each.get("format") or "",
            _gb(each.get("size_bytes") or 0),
            f"{context:,}" if context else "",
            remark,
        )
    out.print(table)


def show_known(found: list[dict[str, Any]], as_json: bool) -> None:
    """Print the names that can be pulled, and which of them are here."""
    settings = _settings()
    try:
        known = names.load(settings.models_dir)
    except SettingsError as error:
        raise fail(error) from None
    is_here = {each["id"].casefold() for each in found}
    if as_json:
        show_json(
            [
                {"id": name, "here": name.casefold() in is_here, **msgspec.to_builtins(entry)}
                for name, entry in known.models.items()
            ]
        )
        return
    name_column = Column("name", no_wrap=True)
    table = Table(name_column, "here", "kind", "billions", "size", "memory", "what it is")
    for name, entry in known.models.items():
        small = min(entry.offers.values(), key=lambda offer: offer.size)
        mark = "yes" if name.casefold() in is_here else ""
        table.add_row(
            *(name, mark, entry.kind, f"{entry.parameters:g}", _gb(small.size)),
            *(_gb(small.memory), entry.about),
        )
    Console(highlight=False).print(table)


def show_facts(found: dict[str, Any], indent: str = "") -> None:
    """Print facts line by line."""
    out = Console(highlight=False, soft_wrap=True)
    for key, value in found.items():
        if isinstance(value, dict):
            out.print(f"{indent}{key}:", markup=False)
            show_facts(value, indent + "  ")
        elif value not in (None, "", []):
            told = ", ".join(map(str, value)) if isinstance(value, list) else value
            out.print(f"{indent}{key}: {told}", markup=False)


def _described(model: Model, settings: Settings) -> dict[str, Any]:
    top = settings.models_dir / model.path.relative_to(settings.models_dir).parts[0]
    manifest = manifests.read(top) if top.is_dir() else None
    return {
        "id": model.name,
        "kind": model.kind,
        "format": model.format,
        "size_bytes": model.size_bytes,
        "architecture": model.architecture,
        "context_length": model.context_length,
        "path": str(model.path),
        "reason": model.problem,
        "source": manifest.source if manifest else None,
        "revision": manifest.revision if manifest else None,
        "fetched": manifest.fetched if manifest else None,
    }


def _settings() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        raise fail(error) from None


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
