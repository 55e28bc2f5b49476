"""The manifest of a downloaded model: its source, revision and file checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from vllm_obtain.models.safe_open import read_limited

# A hidden file, which does not count as a file of the model.
FILE: Final = ".vllm-obtain.json"
_BLOCK: Final = 4 * 1024 * 1024
_MAX_BYTES: Final = 16 * 1024 * 1024


class FileRecord(Struct, frozen=True):
    """A downloaded file.

    Args:
        path: the path below the model's folder.
        size: bytes.
        sha256: the checksum of the content, in hexadecimal.
        blob: the git blob checksum if the hub publishes no sha256; else empty.
    """

    path: str
    size: int
    sha256: str
    blob: str = ""


class Manifest(Struct, frozen=True):
    """The source and the files of a downloaded model.

    Args:
        name: the name of the model's folder.
        asked: the requested reference, which an update resolves again.
        source: the source, such as `hf:Qwen/Qwen3-8B-GGUF`.
        revision: the revision of the source.
        form: `mlx`, `gguf` or `safetensors`.
        fetched: the time of the download, in seconds since 1970.
        files: all files.
    """

    name: str
    asked: str
    source: str
    revision: str
    form: str
    fetched: int
    files: list[FileRecord]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def read(folder: Path) -> Manifest | None:
    """Read the manifest in a model's folder; None if it is missing or invalid."""
    try:
        return msgspec.json.decode(read_limited(folder / FILE, _MAX_BYTES), type=Manifest)
    except (OSError, msgspec.MsgspecError, ValueError):
        return None


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into a model's folder."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / FILE).write_bytes(text + b"\n")


def faults(
    folder: Path,
    manifest: Manifest,
    whole: bool = True,
    on_read: Callable[[int], None] | None = None,
) -> Iterator[str]:
    """Compare a folder with its manifest.

    Args:
        folder: the model's folder.
        manifest: its manifest.
        whole: whether to compare checksums; else only names and sizes are compared.
        on_read: called with the number of bytes of each block that was read.

    Yields:
        One short description per damaged file.
    """
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file():
            yield f"{file.path} is missing"
        elif (size := path.stat().st_size) != file.size:
            yield f"{file.path} has {size:,} bytes instead of {file.size:,}"
        elif whole and digest(path, on_read) != file.sha256:
            yield f"{file.path} has a wrong checksum"


def digest(path: Path, on_read: Callable[[int], None] | None = None) -> str:
    """The sha256 of a file in hexadecimal.

    Args:
        path: the file.
        on_read: called with the number of bytes of each block that was read.
    """
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
            if on_read is not None:
                on_read(len(block))
    return checksum.hexdigest()


def blob(path: Path) -> str:
    """The git blob checksum of a file, which hubs publish for files outside of LFS."""
    checksum = hashlib.sha1(usedforsecurity=False)
    checksum.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
    return checksum.hexdigest()
