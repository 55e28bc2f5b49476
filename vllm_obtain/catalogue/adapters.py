"""Models that are another model with a LoRA adapter, as the owner's settings make them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from vllm_obtain.catalogue.model import Model
from vllm_obtain.catalogue.naming import clean
from vllm_obtain.model_settings import ModelTable


def with_adapters(models: Sequence[Model], table: ModelTable) -> list[Model]:
    """Add the models that are made of an adapter and a base.

    Args:
        models: those on disk. One with the name of a table that has an adapter is left with a
            problem: it would be loaded with an adapter that is for another one.
        table: what is set for single models.

    Returns:
        All by name; an adapter whose base is not here is left out.
    """
    named = {clean(name): each for name, each in table.tables.items() if each.lora}
    if not named:
        return list(models)
    taken = {name.casefold() for name in named}
    found = [_hidden(each) if each.name.casefold() in taken else each for each in models]
    bases = {each.name.casefold(): each for each in models}
    for name, owner in named.items():
        base = bases.get(table.meant(clean(owner.base or "")).casefold())
        if base is None or owner.lora is None or name.casefold() in bases:
            continue
        adapted = dataclasses.replace(
            base, name=name, base=base.name, adapter_revision=_revision(owner.lora)
        )
        found.append(adapted)
    return sorted(found, key=lambda model: model.name)


def _hidden(model: Model) -> Model:
    problem = "MODEL_SETTINGS gives its name to a model with an adapter; rename one of them"
    return dataclasses.replace(model, problem=problem)


def _revision(adapter: Path) -> str:
    try:
        facts = adapter.stat()
    except OSError:
        return "gone"
    said = f"{adapter}\0{facts.st_size}\0{facts.st_mtime_ns}"
    return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()[:12]
