"""The pieces of a report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something to do.

    Args:
        text: what is the matter, one or two sentences.
        command: what to type, exactly, or None.
        then: what to do after it (`set …`), or None.
    """

    text: str
    command: str | None = None
    then: str | None = None


@dataclass
class ModelRow:
    """A model and what would serve it.

    Args:
        name: what clients call it.
        format: `gguf` or `safetensors`.
        size_bytes: of its files.
        engine: what would serve it, or None.
        conversion: `mlx` or `hf` when its file has to be converted first, or None.
        reason: why this engine, or None.
        problem: why none, or None.
    """

    name: str
    format: str
    size_bytes: int
    engine: str | None = None
    conversion: str | None = None
    reason: str | None = None
    problem: str | None = None
