"""Plans a conversion from the model's header, in milliseconds."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vllm_obtain.models.convert.architectures import read_sizes
from vllm_obtain.models.convert.bert_source import read_encoder
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.gguf_source import open_source
from vllm_obtain.models.convert.hf_config import config
from vllm_obtain.models.convert.tensor_jobs import Target, jobs_for
from vllm_obtain.models.convert.vocabulary import check_vocabulary
from vllm_obtain.models.model import Model

FOLDER: Final = ".converted"  # hidden, so that scans ignore it
_NEEDED: Final = ("gguf", "numpy", "tokenizers")
_OTHER_FILES: Final = 64 * 1024 * 1024  # bytes for the tokenizer of the largest vocabularies
_MAX_STEM: Final = 150  # bytes; a file name may have 255


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """A planned conversion.

    Args:
        source: the GGUF file, or the first part of a split one; a folder for `gguf`.
        target: `mlx`, `hf` or `gguf`.
        folder: the path of the converted model.
        bytes_needed: disk space for the conversion.
        problem: the reason why the model cannot be converted, or None.
    """

    source: Path
    target: Target
    folder: Path
    bytes_needed: int = 0
    problem: str | None = None

    @property
    def done(self) -> bool:
        """Whether the converted model exists; it is installed atomically."""
        return self.folder.is_dir()

    @property
    def file(self) -> Path:
        """The path of the GGUF file, for the target `gguf`."""
        return self.folder / f"{short_stem(self.source)}.gguf"

    @property
    def label(self) -> str:
        """The common prefix of the folders of all revisions of this model."""
        return self.folder.name.rpartition("-")[0]

    @property
    def partial(self) -> Path:
        """The temporary folder of the conversion."""
        return self.folder.with_name(f".partial-{self.folder.name}")

    @property
    def command(self) -> list[str]:
        """The command line of the conversion process."""
        module = "vllm_obtain.models.convert"
        return [sys.executable, "-m", module, "--to", self.target, str(self.source)]


def plan(model: Model, target: Target) -> ConversionPlan:
    """Plan a conversion; reads the header only, without large imports.

    Args:
        model: a GGUF model; for `gguf` a folder with an encoder.
        target: `mlx` for our MLX engine, `hf` (a 16-bit Hugging Face folder) for vLLM, `gguf` for
            llama.cpp.

    Returns:
        The plan; check its `problem` first.
    """
    home = model.path if model.format == "safetensors" else model.path.parent
    folder = home / FOLDER / f"{short_stem(model.path)}-{target}-{model.revision}"
    try:
        needed = _bytes_needed(model, target)
    except ConversionError as error:
        return ConversionPlan(model.path, target, folder, problem=str(error))
    return ConversionPlan(model.path, target, folder, needed)


def short_stem(path: Path) -> str:
    """The stem of a file name, shortened so that suffixes fit."""
    raw = os.fsencode(path.stem)
    if len(raw) <= _MAX_STEM:
        return path.stem
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return f"{raw[: _MAX_STEM - 13].decode('utf-8', 'ignore')}-{digest}"


def _bytes_needed(model: Model, target: Target) -> int:
    if target != "gguf" and model.format != "gguf":
        raise ConversionError(f"{model.name} is not a GGUF model and need not be converted.")
    if model.problem:
        raise ConversionError(f"{model.name} cannot be converted: {model.problem}.")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConversionError(
            f"Conversion requires {' and '.join(missing)}. "
            "Install them: pip install 'vllm-obtain[convert]'."
        )
    if target == "gguf":
        read_encoder(model)
        return model.size_bytes + _OTHER_FILES
    with open_source(model.path) as source:
        sizes = read_sizes(source)
        jobs = jobs_for(source, sizes, target)
        config(source, sizes, jobs)
        check_vocabulary(source)
    return sum(output.size for job in jobs for output in job.outputs) + _OTHER_FILES
