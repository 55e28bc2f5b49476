"""Which file beside a GGUF model lets it see: its projector, that turns images into tokens.

Repositories have it as `mmproj-….gguf` in the model's folder. It is no model of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vllm_obtain.catalogue.files import opened
from vllm_obtain.catalogue.gguf_cursor import Cursor, GGUFError
from vllm_obtain.catalogue.gguf_layout import Layout

_MARK: Final = "mmproj"
_PRECISION: Final = re.compile(
    r"[-_.](?:ud[-_])?(?:[it]?q\d\w*|mxfp4\w*|bf16|fp?16|f32)(?=[-_.]|$)"
)
# Words of file names that say nothing about which model it is.
_ANY: Final = frozenset({_MARK, "model", "ggml", "vision"})
# The best first: as exact as they are made, and fast wherever they run.
_BEST: Final = ("f16", "bf16", "q8_0", "f32")
# Kinds that make as many tokens of every image: one for each of its patches.
_PLAIN: Final = frozenset({"mlp", "mlp_norm"})


@dataclass(frozen=True, slots=True)
class Projector:
    """A model's projector.

    Args:
        path: its file.
        kind: as llama.cpp calls it: `mlp`, `gemma3`, …
        tokens: how many an image takes, None where that depends on the image.
    """

    path: Path
    kind: str
    tokens: int | None = None


class ProjectorError(Exception):
    """A projector is of no use to its model; the message says why, without a subject."""


def is_projector(name: str) -> bool:
    """Whether a file's name is that of a projector."""
    return _MARK in name.lower() and name.lower().endswith(".gguf")


def pick(stem: str, others: Iterable[str], projectors: Collection[str]) -> str | None:
    """Find a model's projector among those in its folder.

    Args:
        stem: the model's file name without its ending.
        others: those of all models in the folder.
        projectors: names of the projectors there.

    Returns:
        The one whose name fits best; any one when all models there are of one family.
    """
    own = _family(stem)
    named = [name for name in projectors if _related(own, _family(Path(name).stem))]
    if not named and {_family(other) for other in others} == {own}:
        named = list(projectors)
    return min(named, key=_rank, default=None)


def read(path: Path, width: int | None) -> Projector:
    """Read a projector's header.

    Args:
        path: its file.
        width: of the vectors that the model reads, if its file says.

    Raises:
        ProjectorError: it cannot be read, sees nothing, or is for another model.
    """
    try:
        with opened(path) as fd:
            return _read(path, Layout(Cursor(fd)), width)
    except OSError as error:
        raise ProjectorError(f"can't be read: {error.strerror or error}") from error
    except GGUFError as error:
        raise ProjectorError(str(error)) from error


def _read(path: Path, layout: Layout, width: int | None) -> Projector:
    if layout.text("general.architecture") != "clip":
        raise ProjectorError("is no projector")
    kind = layout.text("clip.vision.projector_type") or layout.text("clip.projector_type") or ""
    if layout.has("clip.has_vision_encoder") and not layout.value("clip.has_vision_encoder"):
        raise ProjectorError("is not for images")
    made = _width(layout, kind)
    if width is not None and made is not None and made != width:
        raise ProjectorError(f"is for another model: its vectors have {made} numbers, not {width}")
    tokens = None
    if kind in _PLAIN:
        image, patch = (layout.number(f"clip.vision.{name}_size") for name in ("image", "patch"))
        tokens = (image // patch) ** 2 if image and patch else None
    return Projector(path, kind, tokens)


def _width(layout: Layout, kind: str) -> int | None:
    """How long the vectors are that it makes of an image."""
    if kind not in _PLAIN:
        return layout.number("clip.vision.projection_dim")
    # Older files of this kind have the width of CLIP's own projection there.
    last = [tensor for tensor in layout.tensors() if tensor.name in ("mm.2.bias", "mm.4.bias")]
    return last[-1].shape[0] if last else None


def _family(stem: str) -> str:
    """What stands in a file's name for the model, without how its weights are written."""
    plain = _PRECISION.sub("", f"-{stem.lower()}")
    return "-".join(word for word in re.split(r"[-_.]+", plain) if word and word not in _ANY)


def _related(model: str, projector: str) -> bool:
    shorter, longer = sorted((model, projector), key=len)
    return bool(shorter) and f"{longer}-".startswith(f"{shorter}-")


def _rank(name: str) -> tuple[int, str]:
    lower = name.lower()
    # `bf16` holds `f16`.
    found = (at for at, word in enumerate(_BEST) if re.search(rf"[-_.]{word}(?=[-_.])", lower))
    return next(found, len(_BEST)), name
