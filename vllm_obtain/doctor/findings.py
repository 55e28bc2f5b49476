"""Rows of a report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A problem or recommendation.

    Args:
        text: description in one or two sentences.
        command: command that fixes it, or None.
        then: step after the command (`set …`), or None.
    """

    text: str
    command: str | None = None
    then: str | None = None


@dataclass
class ModelRow:
    """A model and the engine selected for it.

    Args:
        name: model name.
        format: `gguf` or `safetensors`.
        size_bytes: size of the model files.
        engine: selected engine, or None.
        conversion: `mlx` or `hf` if the files are converted before loading, or None.
        reason: why this engine was selected, or None.
        problem: why no engine can serve the model, or None.
    """

    name: str
    format: str
    size_bytes: int
    engine: str | None = None
    conversion: str | None = None
    reason: str | None = None
    problem: str | None = None
