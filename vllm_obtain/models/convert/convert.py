"""Converts a model. The result is installed atomically, under a lock per model and target."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Final

from vllm_obtain.fs import sync_folder
from vllm_obtain.models.convert.architectures import read_sizes
from vllm_obtain.models.convert.bert_source import read_encoder
from vllm_obtain.models.convert.cleanup import remove_leftovers
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.gguf_source import GGUFSource, open_source
from vllm_obtain.models.convert.gguf_writer import write_gguf
from vllm_obtain.models.convert.hf_config import config, generation_config, token_ids
from vllm_obtain.models.convert.plan import ConversionPlan, plan
from vllm_obtain.models.convert.progress import ConversionMeter
from vllm_obtain.models.convert.safetensors_writer import MAX_SHARD, SafetensorsWriter
from vllm_obtain.models.convert.tensor_jobs import Target, jobs_for
from vllm_obtain.models.convert.tokenizer_config import tokenizer_config
from vllm_obtain.models.convert.tokenizer_json import tokenizer
from vllm_obtain.models.convert.vocabulary import Vocabulary, read_vocabulary
from vllm_obtain.models.convert.weights import write_weights
from vllm_obtain.models.file_lock import locked
from vllm_obtain.models.progress import ProgressCallback
from vllm_obtain.models.safetensors import WEIGHTS
from vllm_obtain.models.scan import read_file, read_folder

_FORMATS: Final = {"mlx": "mlx", "hf": "pt"}  # `format` in `__metadata__`


def convert(source: Path, target: Target, report: ProgressCallback, limit: int = MAX_SHARD) -> Path:
    """Convert a model, unless the conversion exists. Safe for concurrent calls.

    Args:
        source: the GGUF file, or the first part of a split one; a folder for `gguf`.
        target: `mlx`, `hf` or `gguf`.
        report: progress callback.
        limit: maximum bytes of a safetensors file.

    Returns:
        The folder with the converted model.

    Raises:
        ConversionError: the conversion failed; the message states the reason.
    """
    conversion = _plan(source, target)
    try:
        if not conversion.done:
            conversion.folder.parent.mkdir(exist_ok=True)
            lock = conversion.folder.with_name(f".{conversion.label}.lock")
            with locked(lock, f"Another process is converting {source.name}; waiting for it."):
                # Another process may have finished while this one waited.
                if not conversion.done:
                    _convert(conversion, report, limit)
    except OSError as error:
        raise ConversionError(
            f"{source.name} cannot be converted in {conversion.folder.parent}: "
            f"{error.strerror or error}. Check the folder's permissions."
        ) from error
    return conversion.folder


def _plan(source: Path, target: Target) -> ConversionPlan:
    try:
        model = read_folder(source) if target == "gguf" else read_file(source)
    except OSError as error:
        raise ConversionError(f"Cannot read {source}: {error.strerror}.") from error
    if model is None:
        kind = "model folder" if target == "gguf" else "GGUF file, or the first part of one"
        raise ConversionError(f"{source} is not a {kind}.")
    conversion = plan(model, target)
    if conversion.problem:
        raise ConversionError(conversion.problem)
    return conversion


def _convert(conversion: ConversionPlan, report: ProgressCallback, limit: int) -> None:
    remove_leftovers(conversion)
    free = shutil.disk_usage(conversion.folder.parent).free
    if free < conversion.bytes_needed:
        raise ConversionError(
            f"{conversion.source.name} needs {conversion.bytes_needed // 10**6} MB in "
            f"{conversion.folder.parent}, but only {free // 10**6} MB are free. Free disk space."
        )
    partial = conversion.partial
    partial.mkdir()
    try:
        if conversion.target == "gguf":
            _write_file(conversion, report)
        else:
            with open_source(conversion.source) as source:
                _write(source, conversion.target, partial, report, limit)
        # The file may have been replaced during the conversion.
        if _plan(conversion.source, conversion.target).folder != conversion.folder:
            raise ConversionError(
                f"{conversion.source.name} changed during the conversion. Try again."
            )
        partial.replace(conversion.folder)
        sync_folder(conversion.folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_file(conversion: ConversionPlan, report: ProgressCallback) -> None:
    model = read_folder(conversion.source)
    if model is None:
        raise ConversionError(f"{conversion.source} no longer exists.")
    files = sorted(conversion.source.glob(f"*{WEIGHTS}"))
    meter = ConversionMeter(sum(file.stat().st_size for file in files), report)
    target = conversion.partial / conversion.file.name
    write_gguf(read_encoder(model), files, target, meter)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(conversion.partial)


def _write(
    source: GGUFSource, target: Target, folder: Path, report: ProgressCallback, limit: int
) -> None:
    sizes = read_sizes(source)
    jobs = jobs_for(source, sizes, target)
    meter = ConversionMeter(sum(job.read_bytes for job in jobs), report)
    # The tokenizer is built first, so that an error does not take the time of the weights.
    meter.stage("tokenizer")
    vocabulary = read_vocabulary(source)
    _write_tokenizer(source, vocabulary, folder)
    _save(folder, "config.json", {**config(source, sizes, jobs), **token_ids(vocabulary)})
    meter.stage("weights")
    with SafetensorsWriter(folder, jobs, _FORMATS[target], limit) as shards:
        write_weights(jobs, shards, meter)
        meter.stage("saving")
        shards.save()
        if len(set(shards.files.values())) > 1:
            _save(folder, "model.safetensors.index.json", shards.index())
    sync_folder(folder)


def _write_tokenizer(source: GGUFSource, vocabulary: Vocabulary, folder: Path) -> None:
    _save_text(folder / "tokenizer.json", tokenizer(vocabulary).to_str())
    _save(folder, "tokenizer_config.json", tokenizer_config(source, vocabulary))
    _save(folder, "generation_config.json", generation_config(vocabulary))


def _save(folder: Path, name: str, content: dict[str, object]) -> None:
    fields = {key: value for key, value in content.items() if value is not None}
    _save_text(folder / name, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")


def _save_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
