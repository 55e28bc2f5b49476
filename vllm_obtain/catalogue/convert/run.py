"""Does a conversion: one at a time for each model, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vllm_obtain.catalogue.convert.config import config, generation_config, token_ids
from vllm_obtain.catalogue.convert.encoder import read_encoder
from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.convert.family import read_sizes
from vllm_obtain.catalogue.convert.jobs import Target, jobs_for
from vllm_obtain.catalogue.convert.leftovers import remove_leftovers
from vllm_obtain.catalogue.convert.plan import Plan, plan
from vllm_obtain.catalogue.convert.progress import Meter, Progress
from vllm_obtain.catalogue.convert.shards import MAX_SHARD, Shards
from vllm_obtain.catalogue.convert.source import Source, opened_source
from vllm_obtain.catalogue.convert.to_gguf import write_gguf
from vllm_obtain.catalogue.convert.tokenizer import tokenizer
from vllm_obtain.catalogue.convert.tokenizer_config import tokenizer_config
from vllm_obtain.catalogue.convert.vocabulary import Vocabulary, read_vocabulary
from vllm_obtain.catalogue.convert.weights import write_weights
from vllm_obtain.catalogue.lock import locked
from vllm_obtain.catalogue.safetensors import WEIGHTS
from vllm_obtain.catalogue.scan import read_file, read_folder

_FORMATS: Final = {"mlx": "mlx", "hf": "pt"}  # what each wants to read in `__metadata__`
Report = Callable[[Progress], None]


def convert(source: Path, target: Target, report: Report, limit: int = MAX_SHARD) -> Path:
    """Convert a model, unless that was done. Safe to call twice at once.

    Args:
        source: the GGUF file, or the first part of a split one; a folder for `gguf`.
        target: `mlx`, `hf` or `gguf`.
        report: told how far it is.
        limit: bytes of a safetensors file.

    Returns:
        The folder with the converted model.

    Raises:
        ConversionError: it can't be done; the message says why.
    """
    todo = _plan(source, target)
    try:
        if not todo.done:
            todo.folder.parent.mkdir(exist_ok=True)
            lock = todo.folder.with_name(f".{todo.label}.lock")
            with locked(lock, f"Another process converts {source.name}; waiting for it."):
                # The one who held the lock before has perhaps just finished.
                if not todo.done:
                    _convert(todo, report, limit)
    except OSError as error:
        raise ConversionError(
            f"{source.name} can't be converted in {todo.folder.parent}: {error.strerror or error}."
        ) from error
    return todo.folder


def _plan(source: Path, target: Target) -> Plan:
    try:
        model = read_folder(source) if target == "gguf" else read_file(source)
    except OSError as error:
        raise ConversionError(f"{source} can't be read: {error.strerror}.") from error
    if model is None:
        what = "model's folder" if target == "gguf" else "GGUF file, or not the first part of one"
        raise ConversionError(f"{source} is no {what}.")
    todo = plan(model, target)
    if todo.problem:
        raise ConversionError(todo.problem)
    return todo


def _convert(todo: Plan, report: Report, limit: int) -> None:
    remove_leftovers(todo)
    free = shutil.disk_usage(todo.folder.parent).free
    if free < todo.bytes_needed:
        raise ConversionError(
            f"{todo.source.name} needs {todo.bytes_needed // 10**6} MB in {todo.folder.parent}, "
            f"where only {free // 10**6} MB are free: make space."
        )
    partial = todo.partial
    partial.mkdir()
    try:
        if todo.target == "gguf":
            _write_file(todo, report)
        else:
            with opened_source(todo.source) as source:
                _write(source, todo.target, partial, report, limit)
        # Somebody may have replaced the file while it was read.
        if _plan(todo.source, todo.target).folder != todo.folder:
            raise ConversionError(f"{todo.source.name} changed while it was read; try again.")
        partial.replace(todo.folder)
        _sync(todo.folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_file(todo: Plan, report: Report) -> None:
    model = read_folder(todo.source)
    if model is None:
        raise ConversionError(f"{todo.source} is gone.")
    files = sorted(todo.source.glob(f"*{WEIGHTS}"))
    meter = Meter(sum(file.stat().st_size for file in files), report)
    target = todo.partial / todo.file.name
    write_gguf(read_encoder(model), files, target, meter)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    _sync(todo.partial)


def _write(source: Source, target: Target, folder: Path, report: Report, limit: int) -> None:
    sizes = read_sizes(source)
    jobs = jobs_for(source, sizes, target)
    meter = Meter(sum(job.read_bytes for job in jobs), report)
    # The tokenizer first: if it can't be built, nobody has waited for the weights.
    meter.stage("tokenizer")
    words = read_vocabulary(source)
    _write_tokenizer(source, words, folder)
    _save(folder, "config.json", {**config(source, sizes, jobs), **token_ids(words)})
    meter.stage("weights")
    with Shards(folder, jobs, _FORMATS[target], limit) as shards:
        write_weights(jobs, shards, meter)
        meter.stage("saving")
        shards.save()
        if len(set(shards.files.values())) > 1:
            _save(folder, "model.safetensors.index.json", shards.index())
    _sync(folder)


def _write_tokenizer(source: Source, words: Vocabulary, folder: Path) -> None:
    _save_text(folder / "tokenizer.json", tokenizer(words).to_str())
    _save(folder, "tokenizer_config.json", tokenizer_config(source, words))
    _save(folder, "generation_config.json", generation_config(words))


def _save(folder: Path, name: str, content: dict[str, object]) -> None:
    kept = {key: value for key, value in content.items() if value is not None}
    _save_text(folder / name, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


def _save_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
