"""Which files of a repository make a model. Weights, settings and vocabularies; never code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

from msgspec import Struct

from vllm_obtain.errors import SourceNotFound

# No pickles and no Python: to read either is to run it.
ALLOWED: Final = frozenset(
    {".safetensors", ".gguf", ".json", ".jinja", ".txt", ".model", ".tiktoken"}
)
# The same weights once more, for other programs.
_DOUBLES: Final = re.compile(
    r"(consolidated|pytorch_model|tf_model|flax_model)[\w.-]*\.safetensors"
)
# Parts of sentence encoders; other folders hold the same model for other programs.
_FOLDERS: Final = re.compile(r"\d+_[A-Za-z]+")
_SPLIT: Final = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
# The best trade first.
_QUANTS: Final = "q4_k_m ud-q4_k_xl q4_k_s q4_k mxfp4 q4_0 q4_1 q5_k_m q6_k q8_0 bf16 f16".split()
_PROJECTORS: Final = ("f16", "bf16", "q8_0", "f32")


class Piece(Struct, frozen=True):
    """A file of a model.

    Args:
        path: in the repository, and in the folder it becomes.
        size: bytes, None when the source does not say.
        sha256: of its content, empty when the source does not say.
        blob: git's own checksum, which hubs say of small files.
    """

    path: str
    size: int | None
    sha256: str = ""
    blob: str = ""


def is_allowed(path: str) -> bool:
    """Whether a file may be taken at all: its kind, and where it would land."""
    parts = PurePosixPath(path).parts
    if not path or path.startswith("/") or "\\" in path or not path.isprintable():
        return False
    if any(part.startswith(".") or part.endswith((" ", ".")) for part in parts):
        return False
    return PurePosixPath(path).suffix.lower() in ALLOWED


def choose(
    pieces: Iterable[Piece], file: str = "", projector: str = "", gguf_first: bool = True
) -> list[Piece]:
    """Choose the files of one model.

    Args:
        pieces: all files of the repository.
        file: which GGUF file, with `*` for anything; empty for the usual one.
        projector: the same of the file that lets it see.
        gguf_first: which of both is taken where there are GGUF files and safetensors.

    Raises:
        SourceNotFound: there is no model among them.
    """
    found = [piece for piece in pieces if is_allowed(piece.path)]
    ggufs = [piece for piece in found if piece.path.lower().endswith(".gguf")]
    weights = [piece for piece in found if _is_weights(piece.path)]
    if file or (ggufs and (gguf_first or not weights)):
        return _gguf(ggufs, file, projector)
    if not weights:
        raise SourceNotFound(
            "It has neither safetensors nor GGUF files, and nothing else is taken: pickles run "
            "programs when they are read.",
            param="model",
        )
    return [piece for piece in found if _belongs(piece.path)]


def _is_weights(path: str) -> bool:
    pure = PurePosixPath(path)
    return (
        pure.suffix == ".safetensors" and len(pure.parts) == 1 and not _DOUBLES.fullmatch(pure.name)
    )


def _belongs(path: str) -> bool:
    pure = PurePosixPath(path)
    if pure.suffix.lower() == ".gguf" or _DOUBLES.fullmatch(pure.name):
        return False
    return len(pure.parts) == 1 or (
        len(pure.parts) == 2 and _FOLDERS.fullmatch(pure.parts[0]) is not None
    )


def _gguf(ggufs: Sequence[Piece], file: str, projector: str) -> list[Piece]:
    helpers = [each for each in ggufs if "mmproj" in each.path.lower()]
    models = [each for each in ggufs if each not in helpers]
    chosen = _named(models, file) if file else _usual(models)
    if not chosen:
        have = ", ".join(sorted(each.path for each in models)[:30]) or "none"
        raise SourceNotFound(
            f"It has no GGUF file {file or 'of a usual kind'}. Its GGUF files: {have}.",
            param="model",
        )
    helper = _named(helpers, projector)[:1] if projector else _projector(helpers)
    return [*chosen, *helper]


def _named(pieces: Sequence[Piece], pattern: str) -> list[Piece]:
    wanted = pattern.lower()
    found = [each for each in pieces if fnmatchcase(each.path.lower(), wanted)]
    return _one_model(found, pieces)


def _usual(models: Sequence[Piece]) -> list[Piece]:
    for quant in _QUANTS:
        marked = re.compile(rf"(^|[-._/]){re.escape(quant)}([-._/]|$)")
        found = [each for each in models if marked.search(each.path.lower())]
        if found:
            return _one_model(found, models)
    return _one_model(list(models), models) if len(models) == 1 else []


def _one_model(found: Sequence[Piece], all_of_them: Sequence[Piece]) -> list[Piece]:
    """The whole file if there is one, else all parts of the first that is split."""
    whole = sorted((p for p in found if not _SPLIT.fullmatch(p.path)), key=lambda p: p.path)
    if whole:
        return whole[:1]
    parts = sorted(found, key=lambda p: p.path)
    if not parts:
        return []
    first = _SPLIT.fullmatch(parts[0].path)
    assert first is not None  # noqa: S101 - no whole ones are left
    same = [
        m for m in all_of_them if (s := _SPLIT.fullmatch(m.path)) and s["stem"] == first["stem"]
    ]
    return sorted(same, key=lambda p: p.path)


def _projector(helpers: Sequence[Piece]) -> list[Piece]:
    for kind in _PROJECTORS:
        marked = re.compile(rf"(^|[-._]){kind}([-._]|$)")
        found = sorted(each.path for each in helpers if marked.search(each.path.lower()))
        if found:
            return [each for each in helpers if each.path == found[0]]
    return list(helpers[:1])
