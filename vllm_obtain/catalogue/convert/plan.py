"""Whether and where a model can be converted, from its header alone and in milliseconds."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vllm_obtain.catalogue.convert.config import config
from vllm_obtain.catalogue.convert.encoder import read_encoder
from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.convert.family import read_sizes
from vllm_obtain.catalogue.convert.jobs import Target, jobs_for
from vllm_obtain.catalogue.convert.source import opened_source
from vllm_obtain.catalogue.convert.vocabulary import check_vocabulary
from vllm_obtain.catalogue.model import Model

FOLDER: Final = ".converted"  # hidden, so that a scan does not find what lies in it
_NEEDED: Final = ("gguf", "numpy", "tokenizers")
_OTHER_FILES: Final = 64 * 1024 * 1024  # bytes for the tokenizer of the largest vocabularies
_MAX_STEM: Final = 150  # bytes; a file name may have 255


@dataclass(frozen=True, slots=True)
class Plan:
    """A conversion that has not begun.

    Args:
        source: the GGUF file, or the first part of a split one; a folder for `gguf`.
        target: `mlx`, `hf` or `gguf`.
        folder: where the converted model is, once it is there.
        bytes_needed: room that it takes on the disk.
        problem: why it can't be done, in one sentence, or None.
    """

    source: Path
    target: Target
    folder: Path
    bytes_needed: int = 0
    problem: str | None = None

    @property
    def done(self) -> bool:
        """Whether the converted model is there; it appears whole or not at all."""
        return self.folder.is_dir()

    @property
    def file(self) -> Path:
        """The GGUF file in it, for that target."""
        return self.folder / f"{short_stem(self.source)}.gguf"

    @property
    def label(self) -> str:
        """What the folders of all revisions of this model begin with."""
        return self.folder.name.rpartition("-")[0]

    @property
    def partial(self) -> Path:
        """Where it is made before it gets its name."""
        return self.folder.with_name(f".partial-{self.folder.name}")

    @property
    def command(self) -> list[str]:
        """The command line of the child process that does it."""
        module = "vllm_obtain.catalogue.convert"
        return [sys.executable, "-m", module, "--to", self.target, str(self.source)]


def plan(model: Model, target: Target) -> Plan:
    """Plan a conversion. Reads the header only, and imports nothing heavy.

    Args:
        model: a GGUF model; for `gguf` a folder with an encoder.
        target: `mlx` for our MLX engine, `hf` (a 16-bit Hugging Face folder) for vLLM, `gguf` for
            llama.cpp.

    Returns:
        The plan; look at its `problem` first.
    """
    home = model.path if model.format == "safetensors" else model.path.parent
    folder = home / FOLDER / f"{short_stem(model.path)}-{target}-{model.revision}"
    try:
        needed = _bytes_needed(model, target)
    except ConversionError as error:
        return Plan(model.path, target, folder, problem=str(error))
    return Plan(model.path, target, folder, needed)


def short_stem(path: Path) -> str:
    """The name of a file without its ending, cut to what fits into a longer name."""
    raw = os.fsencode(path.stem)
    if len(raw) <= _MAX_STEM:
        return path.stem
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return f"{raw[: _MAX_STEM - 13].decode('utf-8', 'ignore')}-{digest}"


def _bytes_needed(model: Model, target: Target) -> int:
    if target != "gguf" and model.format != "gguf":
        raise ConversionError(f"{model.name} is no GGUF model, so there is nothing to convert.")
    if model.problem:
        raise ConversionError(f"{model.name} can't be converted: {model.problem}.")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConversionError(
            f"To convert a model, {' and '.join(missing)} must be installed: "
            "pip install 'vllm-obtain[convert]'."
        )
    if target == "gguf":
        read_encoder(model)
        return model.size_bytes + _OTHER_FILES
    with opened_source(model.path) as source:
        sizes = read_sizes(source)
        jobs = jobs_for(source, sizes, target)
        config(source, sizes, jobs)
        check_vocabulary(source)
    return sum(output.size for job in jobs for output in job.outputs) + _OTHER_FILES
