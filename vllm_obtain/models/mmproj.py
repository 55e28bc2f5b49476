"""Finds and reads the vision projector of a GGUF model, which turns images into embeddings.

Repositories contain it as `mmproj-….gguf` in the model's folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vllm_obtain.models.gguf.layout import GGUFMetadata
from vllm_obtain.models.gguf.reader import GGUFError, HeaderReader
from vllm_obtain.models.safe_open import opened

_MARK: Final = "mmproj"
_PRECISION: Final = re.compile(
    r"[-_.](?:ud[-_])?(?:[it]?q\d\w*|mxfp4\w*|bf16|fp?16|f32)(?=[-_.]|$)"
)
# Words in file names that do not identify a model.
_GENERIC_WORDS: Final = frozenset({_MARK, "model", "ggml", "vision"})
# Preferred precisions, best first: accurate, and fast on every device.
_PRECISIONS: Final = ("f16", "bf16", "q8_0", "f32")
# Projector types with a fixed number of tokens per image: one per patch.
_FIXED_SIZE: Final = frozenset({"mlp", "mlp_norm"})


@dataclass(frozen=True, slots=True)
class Projector:
    """The vision projector of a model.

    Args:
        path: the file.
        kind: the projector type in llama.cpp: `mlp`, `gemma3`, …
        tokens: tokens per image, None if that depends on the image.
    """

    path: Path
    kind: str
    tokens: int | None = None


class ProjectorError(Exception):
    """The projector cannot be used; the message completes "the projector ..."."""


def is_projector(name: str) -> bool:
    """Whether a file name is that of a projector."""
    return _MARK in name.lower() and name.lower().endswith(".gguf")


def pick(stem: str, others: Iterable[str], projectors: Collection[str]) -> str | None:
    """Select the projector of a model in its folder.

    Args:
        stem: the file name of the model without its ending.
        others: the stems of all models in the folder.
        projectors: the file names of the projectors in the folder.

    Returns:
        The best projector with a matching name; if all models in the folder are of one family,
        the best of all projectors.
    """
    own = _family(stem)
    matches = [name for name in projectors if _related(own, _family(Path(name).stem))]
    if not matches and {_family(other) for other in others} == {own}:
        matches = list(projectors)
    return min(matches, key=_rank, default=None)


def read(path: Path, width: int | None) -> Projector:
    """Read the header of a projector.

    Args:
        path: the file.
        width: the embedding length of the model, if known.

    Raises:
        ProjectorError: the file cannot be read, is not for images, or is for another model.
    """
    try:
        with opened(path) as fd:
            return _read(path, GGUFMetadata(HeaderReader(fd)), width)
    except OSError as error:
        raise ProjectorError(f"cannot be read: {error.strerror or error}") from error
    except GGUFError as error:
        raise ProjectorError(str(error)) from error


def _read(path: Path, layout: GGUFMetadata, width: int | None) -> Projector:
    if layout.text("general.architecture") != "clip":
        raise ProjectorError("is not a vision projector")
    kind = layout.text("clip.vision.projector_type") or layout.text("clip.projector_type") or ""
    if layout.has("clip.has_vision_encoder") and not layout.value("clip.has_vision_encoder"):
        raise ProjectorError("is not for images")
    output = _width(layout, kind)
    if width is not None and output is not None and output != width:
        raise ProjectorError(
            f"is for another model: its embeddings have {output} dimensions, not {width}"
        )
    tokens = None
    if kind in _FIXED_SIZE:
        image, patch = (layout.number(f"clip.vision.{name}_size") for name in ("image", "patch"))
        tokens = (image // patch) ** 2 if image and patch else None
    return Projector(path, kind, tokens)


def _width(layout: GGUFMetadata, kind: str) -> int | None:
    """The length of the projector's output embeddings."""
    if kind not in _FIXED_SIZE:
        return layout.number("clip.vision.projection_dim")
    # In older files of these types, `projection_dim` is the width of CLIP's own projection.
    last = [tensor for tensor in layout.tensors() if tensor.name in ("mm.2.bias", "mm.4.bias")]
    return last[-1].shape[0] if last else None


def _family(stem: str) -> str:
    """The part of a file name that identifies the model, without precision and generic words."""
    plain = _PRECISION.sub("", f"-{stem.lower()}")
    return "-".join(
        word for word in re.split(r"[-_.]+", plain) if word and word not in _GENERIC_WORDS
    )


def _related(model: str, projector: str) -> bool:
    shorter, longer = sorted((model, projector), key=len)
    return bool(shorter) and f"{longer}-".startswith(f"{shorter}-")


def _rank(name: str) -> tuple[int, str]:
    lower = name.lower()
    # The separator matters, since `bf16` contains `f16`.
    ranks = (
        at for at, word in enumerate(_PRECISIONS) if re.search(rf"[-_.]{word}(?=[-_.])", lower)
    )
    return next(ranks, len(_PRECISIONS)), name
