"""Derives model names from the paths below MODELS_DIR; pure functions without file access.

MODELS_DIR/qwen-0.5b/.../Qwen2___5-0___5B-Instruct/    qwen-0.5b, the only one in qwen-0.5b
MODELS_DIR/tiny.gguf                                   tiny
MODELS_DIR/big/a.gguf, MODELS_DIR/big/b/c.gguf         big/a and big/c
MODELS_DIR/models--Qwen--Qwen3-8B/snapshots/1f2e/      Qwen/Qwen3-8B
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vllm_obtain.models import hf_cache

# Prefixes of LiteLLM and others that name the API of a service.
_KIND = re.compile(r"^(?:openai|anthropic|ollama|ollama_chat|vllm|hosted_vllm|lm_studio)/", re.I)
# Models that an unknown name is compared with.
_MOST_COMPARED = 200


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """The location of a model.

    Args:
        parts: the components of the path below MODELS_DIR; empty for MODELS_DIR itself.
        stem: the last component as it appears in a name.
        is_file: whether the model is a single file.
    """

    parts: tuple[str, ...]
    stem: str
    is_file: bool


def names(locations: Sequence[ModelLocation]) -> list[str]:
    """Assign unique names to models.

    Args:
        locations: the locations of all models.

    Returns:
        The names, in the same order.
    """
    roots = [_root(location) for location in locations]
    counts = Counter(root for root, _ in roots)
    candidates = [
        _candidates(location, root, label, counts[root] == 1)
        for location, (root, label) in zip(locations, roots, strict=True)
    ]
    while _lengthen_one_clash(candidates):
        pass
    return [names_[0] for names_ in candidates]


def clean(name: str) -> str:
    """Normalize a name (Unicode NFC, valid UTF-8) for comparison and JSON."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())


def spellings(name: str) -> Iterator[str]:
    """Yield a name, and the names that it may stand for, from the most to the least similar.

    Ollama's clients add a tag: `name:latest`, or `qwen3:8b` for `qwen3-8b`. Others add the kind
    of service: `openai/name`.
    """
    without_kind = _KIND.sub("", name)
    for each in dict.fromkeys((name, without_kind)):
        yield each
        untagged = each.removesuffix(":latest")
        if untagged != each:
            yield untagged
        if ":" in untagged:
            yield untagged.replace(":", "-")


def closest(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that is most similar to a name, or None if none is similar."""
    folded: dict[str, str] = {}
    for each in known[:_MOST_COMPARED]:
        for key in (each.casefold().rpartition("/")[2], each.casefold()):
            folded.setdefault(key, each)
    for wanted in (name.casefold(), name.casefold().rpartition("/")[2]):
        if found := difflib.get_close_matches(wanted, folded, 1):
            return folded[found[0]]
    return None


def _root(location: ModelLocation) -> tuple[tuple[str, ...], str]:
    """The leading path components that determine the name, and that name."""
    parts = location.parts
    for index, part in enumerate(parts[:-1]):
        label = hf_cache.repository(part)
        if label and parts[index + 1] == "snapshots":
            return parts[: index + 3], label
    if len(parts) < 2 and (location.is_file or not parts):
        return parts, location.stem
    return parts[:1], parts[0]


def _candidates(
    location: ModelLocation, root: tuple[str, ...], label: str, is_only_model: bool
) -> list[str]:
    """The possible names of a model, from the shortest to the full path."""
    parts, stem = location.parts, location.stem
    rest = [*parts[len(root) : -1], stem] if len(parts) > len(root) else []
    longer = ["/".join([label, *rest[start:]]) for start in range(len(rest) - 1, -1, -1)]
    full_path = "/".join(parts) or stem
    candidates = [label, *longer] if is_only_model or not rest else longer
    return [clean(name) for name in dict.fromkeys([*candidates, full_path])]


def _lengthen_one_clash(candidates: list[list[str]]) -> bool:
    """Resolve one name clash: the models with the most candidates drop their shortest one.

    Returns:
        Whether there was a clash to resolve.
    """
    by_name: dict[str, list[list[str]]] = {}
    for names_ in candidates:
        by_name.setdefault(names_[0], []).append(names_)
    for clashing in by_name.values():
        longest = max(len(names_) for names_ in clashing)
        if len(clashing) > 1 and longest > 1:
            for names_ in clashing:
                if len(names_) == longest:
                    del names_[0]
            return True
    return False
