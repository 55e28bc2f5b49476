"""Reads the configuration of a safetensors folder and checks that its weights are complete."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from vllm_obtain.models.safe_open import FileFacts, opened, read_limited

CONFIG: Final = "config.json"
# The file with `max_seq_length` of sentence-transformers.
SENTENCES: Final = "sentence_bert_config.json"
INDEX: Final = "model.safetensors.index.json"
WEIGHTS: Final = ".safetensors"
MAX_CONFIG: Final = 16 * 1024 * 1024
MAX_INDEX: Final = 64 * 1024 * 1024
MAX_HEADER: Final = 100_000_000  # the limit of the safetensors library
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length")
# Keys of vision models in config.json, and their image processor files.
_VISION_KEYS = ("vision_config", "vision_tower", "mm_vision_tower", "visual", "img_processor")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_READ_ERRORS = (OSError, msgspec.MsgspecError, ValueError, RecursionError)


class BrokenFolderError(ValueError):
    """The folder is not a usable model; the message says why."""


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """The properties of a model folder.

    Args:
        architecture: the class in transformers or the `model_type`; None if unknown.
        context_length: the trained context length in tokens; None if unknown.
        unused: weight files that the index does not list, which are copies for other programs.
        why_no_images: why the model does not accept images; empty if it does.
    """

    architecture: str | None
    context_length: int | None
    unused: frozenset[str]
    why_no_images: str = ""


class _Tensor(msgspec.Struct):
    data_offsets: tuple[int, int] = (0, 0)


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def read_folder(files: Mapping[str, FileFacts]) -> FolderFacts:
    """Read a model's configuration and check that its files are complete.

    Args:
        files: the files of the folder by name.

    Returns:
        The properties of the model.

    Raises:
        BrokenFolderError: a file is missing or damaged.
    """
    if CONFIG not in files:
        if "adapter_config.json" in files:
            raise BrokenFolderError(
                "it is a LoRA adapter, not a model; name it in MODEL_SETTINGS as lora of its base"
            )
        raise BrokenFolderError(f"{CONFIG} is missing")
    config = _configuration(files[CONFIG].path)
    present = {name for name in files if name.endswith(WEIGHTS)}
    used = _read_index(files[INDEX].path) if INDEX in files else present
    missing = _first_missing(used, present)
    if missing:
        raise BrokenFolderError(f"weight files are missing, such as {missing}")
    for name in sorted(used):
        _check_weights(files[name].path)
    context = _context_length(config)
    if SENTENCES in files:
        context = _shorter(context, _configuration(files[SENTENCES].path).get("max_seq_length"))
    return FolderFacts(
        _architecture(config), context, frozenset(present - used), _why_no_images(config, files)
    )


def _configuration(path: Path) -> dict[str, Any]:
    try:
        # Not msgspec: the files may contain Infinity, which Python writes but JSON does not allow.
        config = json.loads(read_limited(path, MAX_CONFIG))
    except _READ_ERRORS as error:
        raise BrokenFolderError(f"{path.name} cannot be read: {_reason(error)}") from error
    if not isinstance(config, dict):
        raise BrokenFolderError(f"{path.name} is not a JSON object")
    return config


def _why_no_images(config: dict[str, Any], files: Mapping[str, FileFacts]) -> str:
    if not any(config.get(key) for key in _VISION_KEYS):
        return f"Its {CONFIG} has no vision configuration."
    if not any(name in files for name in _PROCESSORS):
        return f"Its folder has no {_PROCESSORS[0]}, which image inputs require."
    return ""


def _shorter(context: int | None, limit: object) -> int | None:
    if not isinstance(limit, int) or limit <= 0:
        return context
    return limit if context is None else min(context, limit)


def _architecture(config: dict[str, Any]) -> str | None:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else config.get("model_type")
    return name if isinstance(name, str) else None


def _context_length(config: dict[str, Any]) -> int | None:
    text = config.get("text_config")  # used by multimodal models
    parts = [config, text] if isinstance(text, dict) else [config]
    values = (part.get(key) for part in parts for key in _CONTEXT_KEYS)
    return next((v for v in values if type(v) is int and 0 < v < 2**31), None)


def _read_index(path: Path) -> set[str]:
    try:
        index = msgspec.json.decode(read_limited(path, MAX_INDEX), type=_Index)
    except _READ_ERRORS as error:
        raise BrokenFolderError(f"{INDEX} cannot be read: {_reason(error)}") from error
    return set(index.weight_map.values())


def _first_missing(used: set[str], present: set[str]) -> str | None:
    if used - present:
        return min(used - present)
    for stem, _, count in {match.groups() for match in map(_SHARD.fullmatch, used) if match}:
        shards = (f"{stem}-{n:05}-of-{count}{WEIGHTS}" for n in range(1, int(count) + 1))
        missing = next((shard for shard in shards if shard not in present), None)
        if missing:
            return missing
    return None


def _check_weights(path: Path) -> None:
    try:
        with opened(path) as fd:
            size = os.fstat(fd).st_size
            start = os.pread(fd, 8, 0)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > min(size - 8, MAX_HEADER):
                raise BrokenFolderError(f"{path.name} is truncated or not a safetensors file")
            tensors = msgspec.json.decode(os.pread(fd, length, 8), type=dict[str, _Tensor])
    except BrokenFolderError:
        raise
    except _READ_ERRORS as error:
        raise BrokenFolderError(f"{path.name} cannot be read: {_reason(error)}") from error
    expected = 8 + length + max((t.data_offsets[1] for t in tensors.values()), default=0)
    if expected > size:
        raise BrokenFolderError(f"{path.name} is truncated: it has {size} of {expected} bytes")


def _reason(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
