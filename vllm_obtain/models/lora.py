"""Adds models with a LoRA adapter, which MODEL_SETTINGS defines, to the catalog."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from vllm_obtain.config.model_settings import ModelTable
from vllm_obtain.models.model import Model
from vllm_obtain.models.naming import clean


def with_adapters(models: Sequence[Model], table: ModelTable) -> list[Model]:
    """Add the models that consist of a base model and a LoRA adapter.

    Args:
        models: the models on disk. A model whose name MODEL_SETTINGS gives to a model with an
            adapter gets a problem, since it would be loaded with that adapter.
        table: MODEL_SETTINGS.

    Returns:
        All models sorted by name, without the adapters whose base model is missing.
    """
    adapters = {clean(name): entry for name, entry in table.tables.items() if entry.lora}
    if not adapters:
        return list(models)
    taken = {name.casefold() for name in adapters}
    result = [
        _with_name_clash(model) if model.name.casefold() in taken else model for model in models
    ]
    bases = {model.name.casefold(): model for model in models}
    for name, entry in adapters.items():
        base = bases.get(table.meant(clean(entry.base or "")).casefold())
        if base is None or entry.lora is None or name.casefold() in bases:
            continue
        adapted = dataclasses.replace(
            base, name=name, base=base.name, adapter_revision=_revision(entry.lora)
        )
        result.append(adapted)
    return sorted(result, key=lambda model: model.name)


def _with_name_clash(model: Model) -> Model:
    problem = "MODEL_SETTINGS uses its name for a model with a LoRA adapter; rename one of them"
    return dataclasses.replace(model, problem=problem)


def _revision(adapter: Path) -> str:
    try:
        stat = adapter.stat()
    except OSError:
        return "gone"
    identity = f"{adapter}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:12]
