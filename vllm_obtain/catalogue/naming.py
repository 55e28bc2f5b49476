"""How models are named: by the folder or file that their owner chose. Pure; paths are only text.

MODELS_DIR/qwen-0.5b/.../Qwen2___5-0___5B-Instruct/    qwen-0.5b, the only one in qwen-0.5b
MODELS_DIR/tiny.gguf                                   tiny
MODELS_DIR/big/a.gguf, MODELS_DIR/big/b/c.gguf         big/a and big/c
MODELS_DIR/models--Qwen--Qwen3-8B/snapshots/1f2e/      Qwen/Qwen3-8B
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_obtain.catalogue import hub


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is.

    Args:
        parts: its path below MODELS_DIR, piece by piece; none if it is MODELS_DIR itself.
        stem: the last piece as it shall appear in a name.
        is_file: whether it is a file.
    """

    parts: tuple[str, ...]
    stem: str
    is_file: bool


def names(places: Sequence[Place]) -> list[str]:
    """Name models.

    Args:
        places: where they are, all of them.

    Returns:
        Their names in the same order, all different.
    """
    owners = [_owner(place) for place in places]
    company = Counter(owner for owner, _ in owners)
    choices = [
        _choices(place, owner, label, company[owner] == 1)
        for place, (owner, label) in zip(places, owners, strict=True)
    ]
    while _lengthen_one_clash(choices):
        pass
    return [choice[0] for choice in choices]


def clean(name: str) -> str:
    """A name in the one spelling in which names are compared, and that JSON can carry."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())


def _owner(place: Place) -> tuple[tuple[str, ...], str]:
    """The part of the path that gives the name, and that name."""
    parts = place.parts
    for index, part in enumerate(parts[:-1]):
        label = hub.repository(part)
        if label and parts[index + 1] == "snapshots":
            return parts[: index + 3], label
    if len(parts) < 2 and (place.is_file or not parts):
        return parts, place.stem
    return parts[:1], parts[0]


def _choices(place: Place, owner: tuple[str, ...], label: str, alone: bool) -> list[str]:
    """The names that this model may have, from the shortest to its whole path."""
    rest = [*place.parts[len(owner) : -1], place.stem] if len(place.parts) > len(owner) else []
    longer = ["/".join([label, *rest[start:]]) for start in range(len(rest) - 1, -1, -1)]
    whole = "/".join(place.parts) or place.stem
    found = [label, *longer] if alone or not rest else longer
    return [clean(name) for name in dict.fromkeys([*found, whole])]


def _lengthen_one_clash(choices: list[list[str]]) -> bool:
    """Where models share a name, take the next longer one for those with most to choose from."""
    taken: dict[str, list[list[str]]] = {}
    for choice in choices:
        taken.setdefault(choice[0], []).append(choice)
    for sharing in taken.values():
        most = max(len(choice) for choice in sharing)
        if len(sharing) > 1 and most > 1:
            for choice in sharing:
                if len(choice) == most:
                    del choice[0]
            return True
    return False
