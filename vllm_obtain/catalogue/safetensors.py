"""What a folder of safetensors says about its model, and whether it is whole."""

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

from vllm_obtain.catalogue.files import FileFacts, opened, read_limited

CONFIG: Final = "config.json"
# Where sentence-transformers keeps how many tokens of a text its model was made for.
SENTENCES: Final = "sentence_bert_config.json"
INDEX: Final = "model.safetensors.index.json"
WEIGHTS: Final = ".safetensors"
MAX_CONFIG: Final = 16 * 1024 * 1024
MAX_INDEX: Final = 64 * 1024 * 1024
MAX_HEADER: Final = 100_000_000  # the limit of the safetensors library itself
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length")
# Where models that see say how, and the files that say how images are cut for them.
_VISION_KEYS = ("vision_config", "vision_tower", "mm_vision_tower", "visual", "img_processor")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_BROKEN = (OSError, msgspec.MsgspecError, ValueError, RecursionError)


class BrokenFolderError(ValueError):
    """The folder is no usable model; the message says why."""


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What a model's folder says about it; None where it doesn't.

    Args:
        architecture: its class in transformers, or its `model_type`.
        context_length: tokens it was trained for.
        unused: weight files that its index doesn't name: copies for other software.
        blind: why it takes no images; empty when it does.
    """

    architecture: str | None
    context_length: int | None
    unused: frozenset[str]
    blind: str = ""


class _Tensor(msgspec.Struct):
    data_offsets: tuple[int, int] = (0, 0)


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def read_folder(files: Mapping[str, FileFacts]) -> FolderFacts:
    """Read a model's configuration and check that its files are whole.

    Args:
        files: the files of the folder by name.

    Returns:
        What they say.

    Raises:
        BrokenFolderError: something is missing or damaged.
    """
    if CONFIG not in files:
        if "adapter_config.json" in files:
            raise BrokenFolderError("it is a LoRA adapter, not a whole model")
        raise BrokenFolderError(f"{CONFIG} is missing")
    config = _configuration(files[CONFIG].path)
    present = {name for name in files if name.endswith(WEIGHTS)}
    used = _indexed(files[INDEX].path) if INDEX in files else present
    missing = _first_missing(used, present)
    if missing:
        raise BrokenFolderError(f"weight files are missing, such as {missing}")
    for name in sorted(used):
        _check_weights(files[name].path)
    context = _context_length(config)
    if SENTENCES in files:
        context = _shorter(context, _configuration(files[SENTENCES].path).get("max_seq_length"))
    return FolderFacts(
        _architecture(config), context, frozenset(present - used), _blind(config, files)
    )


def _configuration(path: Path) -> dict[str, Any]:
    try:
        # Not msgspec: such files may hold Infinity, which Python writes but JSON doesn't know.
        config = json.loads(read_limited(path, MAX_CONFIG))
    except _BROKEN as error:
        raise BrokenFolderError(f"{path.name} can't be read: {_reason(error)}") from error
    if not isinstance(config, dict):
        raise BrokenFolderError(f"{path.name} is not an object")
    return config


def _blind(config: dict[str, Any], files: Mapping[str, FileFacts]) -> str:
    if not any(config.get(key) for key in _VISION_KEYS):
        return f"Its {CONFIG} has no part for images."
    if not any(name in files for name in _PROCESSORS):
        return f"Its folder has no {_PROCESSORS[0]}, which says how images are prepared."
    return ""


def _shorter(context: int | None, named: object) -> int | None:
    if not isinstance(named, int) or named <= 0:
        return context
    return named if context is None else min(context, named)


def _architecture(config: dict[str, Any]) -> str | None:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else config.get("model_type")
    return name if isinstance(name, str) else None


def _context_length(config: dict[str, Any]) -> int | None:
    text = config.get("text_config")  # where models that also see or hear keep it
    parts = [config, text] if isinstance(text, dict) else [config]
    values = (part.get(key) for part in parts for key in _CONTEXT_KEYS)
    return next((v for v in values if type(v) is int and 0 < v < 2**31), None)


def _indexed(path: Path) -> set[str]:
    try:
        index = msgspec.json.decode(read_limited(path, MAX_INDEX), type=_Index)
    except _BROKEN as error:
        raise BrokenFolderError(f"{INDEX} can't be read: {_reason(error)}") from error
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
    except _BROKEN as error:
        raise BrokenFolderError(f"{path.name} can't be read: {_reason(error)}") from error
    expected = 8 + length + max((t.data_offsets[1] for t in tensors.values()), default=0)
    if expected > size:
        raise BrokenFolderError(f"{path.name} is truncated: {size} of {expected} bytes are there")


def _reason(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
