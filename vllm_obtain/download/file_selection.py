"""Selects the files of a model in a repository: weights, configuration, tokenizer; never code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

from msgspec import Struct

from vllm_obtain.errors import SourceNotFound

# Excludes pickles and Python files, since reading them runs code.
ALLOWED: Final = frozenset(
    {".safetensors", ".gguf", ".json", ".jinja", ".txt", ".model", ".tiktoken"}
)
# Copies of the same weights for other programs.
_COPIES: Final = re.compile(r"(consolidated|pytorch_model|tf_model|flax_model)[\w.-]*\.safetensors")
# Module folders of sentence-transformers; other folders hold copies for other programs.
_FOLDERS: Final = re.compile(r"\d+_[A-Za-z]+")
_SPLIT: Final = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
# Preferred quantizations, best trade-off of size and quality first.
_QUANTS: Final = "q4_k_m ud-q4_k_xl q4_k_s q4_k mxfp4 q4_0 q4_1 q5_k_m q6_k q8_0 bf16 f16".split()
_PROJECTORS: Final = ("f16", "bf16", "q8_0", "f32")


class RepoFile(Struct, frozen=True):
    """A file in a repository.

    Args:
        path: the path in the repository and in the model's folder.
        size: bytes, None if unknown.
        sha256: the checksum of the content in hexadecimal, empty if unknown.
        blob: the git blob checksum, which hubs publish for files outside of LFS.
    """

    path: str
    size: int | None
    sha256: str = ""
    blob: str = ""


def is_allowed(path: str) -> bool:
    """Whether a file has an allowed type and a safe path."""
    parts = PurePosixPath(path).parts
    if not path or path.startswith("/") or "\\" in path or not path.isprintable():
        return False
    if any(part.startswith(".") or part.endswith((" ", ".")) for part in parts):
        return False
    return PurePosixPath(path).suffix.lower() in ALLOWED


def choose(
    pieces: Iterable[RepoFile], file: str = "", projector: str = "", gguf_first: bool = True
) -> list[RepoFile]:
    """Select the files of one model.

    Args:
        pieces: all files of the repository.
        file: the name or pattern (`*` matches anything) of the GGUF file; empty selects by
            quantization.
        projector: the name or pattern of the vision projector.
        gguf_first: whether to prefer GGUF over safetensors if the repository has both.

    Raises:
        SourceNotFound: the repository has no model.
    """
    allowed = [piece for piece in pieces if is_allowed(piece.path)]
    ggufs = [piece for piece in allowed if piece.path.lower().endswith(".gguf")]
    weights = [piece for piece in allowed if _is_weights(piece.path)]
    if file or (ggufs and (gguf_first or not weights)):
        return _gguf(ggufs, file, projector)
    if not weights:
        raise SourceNotFound(
            "The repository has no safetensors or GGUF files. Choose one that has: other formats, "
            "such as pickles, can run code when they are loaded.",
            param="model",
        )
    return [piece for piece in allowed if _belongs(piece.path)]


def _is_weights(path: str) -> bool:
    pure = PurePosixPath(path)
    return (
        pure.suffix == ".safetensors" and len(pure.parts) == 1 and not _COPIES.fullmatch(pure.name)
    )


def _belongs(path: str) -> bool:
    pure = PurePosixPath(path)
    if pure.suffix.lower() == ".gguf" or _COPIES.fullmatch(pure.name):
        return False
    return len(pure.parts) == 1 or (
        len(pure.parts) == 2 and _FOLDERS.fullmatch(pure.parts[0]) is not None
    )


def _gguf(ggufs: Sequence[RepoFile], file: str, projector: str) -> list[RepoFile]:
    projectors = [each for each in ggufs if "mmproj" in each.path.lower()]
    models = [each for each in ggufs if each not in projectors]
    selected = _by_pattern(models, file) if file else _by_quantization(models)
    if not selected:
        names = ", ".join(sorted(each.path for each in models)[:30]) or "none"
        raise SourceNotFound(
            f"The repository has no GGUF file {file or 'with a known quantization'}. Choose one "
            f"of its files as `:FILE`: {names}.",
            param="model",
        )
    companion = _by_pattern(projectors, projector)[:1] if projector else _projector(projectors)
    return [*selected, *companion]


def _by_pattern(pieces: Sequence[RepoFile], pattern: str) -> list[RepoFile]:
    lowered = pattern.lower()
    matches = [each for each in pieces if fnmatchcase(each.path.lower(), lowered)]
    return _one_model(matches, pieces)


def _by_quantization(models: Sequence[RepoFile]) -> list[RepoFile]:
    for quant in _QUANTS:
        pattern = re.compile(rf"(^|[-._/]){re.escape(quant)}([-._/]|$)")
        matches = [each for each in models if pattern.search(each.path.lower())]
        if matches:
            return _one_model(matches, models)
    return _one_model(list(models), models) if len(models) == 1 else []


def _one_model(matches: Sequence[RepoFile], models: Sequence[RepoFile]) -> list[RepoFile]:
    """The first unsplit file if there is one, else all parts of the first split file."""
    unsplit = sorted((p for p in matches if not _SPLIT.fullmatch(p.path)), key=lambda p: p.path)
    if unsplit:
        return unsplit[:1]
    parts = sorted(matches, key=lambda p: p.path)
    if not parts:
        return []
    first = _SPLIT.fullmatch(parts[0].path)
    assert first is not None  # noqa: S101 - all files in `parts` are split
    same = [m for m in models if (s := _SPLIT.fullmatch(m.path)) and s["stem"] == first["stem"]]
    return sorted(same, key=lambda p: p.path)


def _projector(projectors: Sequence[RepoFile]) -> list[RepoFile]:
    for kind in _PROJECTORS:
        pattern = re.compile(rf"(^|[-._]){kind}([-._]|$)")
        matches = sorted(each.path for each in projectors if pattern.search(each.path.lower()))
        if matches:
            return [each for each in projectors if each.path == matches[0]]
    return list(projectors[:1])
