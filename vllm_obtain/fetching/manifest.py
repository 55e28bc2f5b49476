"""What was fetched, written beside it: the source, its revision, and each file's checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from vllm_obtain.catalogue.files import read_limited

# Hidden, so that it is no part of the model and changes nothing of its revision.
FILE: Final = ".vllm-obtain.json"
_BLOCK: Final = 4 * 1024 * 1024
_MOST_BYTES: Final = 16 * 1024 * 1024


class Kept(Struct, frozen=True):
    """A file as it was fetched.

    Args:
        path: below the model's folder.
        size: bytes.
        sha256: of its content.
        blob: git's checksum, where the hub said that and no sha256; else empty.
    """

    path: str
    size: int
    sha256: str
    blob: str = ""


class Manifest(Struct, frozen=True):
    """Where a model comes from and what it consists of.

    Args:
        name: its folder.
        asked: what was asked for, as it would be asked for again.
        source: what answered, such as `hf:Qwen/Qwen3-8B-GGUF`.
        revision: of the source, as the source tells it.
        form: `mlx`, `gguf` or `safetensors`.
        fetched: when, in seconds since 1970.
        files: all files.
    """

    name: str
    asked: str
    source: str
    revision: str
    form: str
    fetched: int
    files: list[Kept]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def read(folder: Path) -> Manifest | None:
    """Read the manifest of a model's folder; None where there is none, or none that can be read."""
    try:
        return msgspec.json.decode(read_limited(folder / FILE, _MOST_BYTES), type=Manifest)
    except (OSError, msgspec.MsgspecError, ValueError):
        return None


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder that is about to become a model."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / FILE).write_bytes(text + b"\n")


def faults(
    folder: Path, manifest: Manifest, whole: bool = True, heard: Callable[[int], None] | None = None
) -> Iterator[str]:
    """Compare a folder with its manifest.

    Args:
        folder: the model's.
        manifest: what it should be.
        whole: whether contents are read; else names and sizes are compared alone.
        heard: told the bytes that were read, now and then.

    Yields:
        What is wrong, in a few words per file.
    """
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file():
            yield f"{file.path} is missing"
        elif (size := path.stat().st_size) != file.size:
            yield f"{file.path} has {size:,} bytes and not {file.size:,}"
        elif whole and digest(path, heard) != file.sha256:
            yield f"{file.path} has another content than was fetched"


def digest(path: Path, heard: Callable[[int], None] | None = None) -> str:
    """The sha256 of a file in hexadecimal.

    Args:
        path: the file.
        heard: told the bytes that were read, now and then.
    """
    made = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            made.update(block)
            if heard is not None:
                heard(len(block))
    return made.hexdigest()


def blob(path: Path) -> str:
    """The checksum that git gives a file, by which hubs name small ones."""
    made = hashlib.sha1(usedforsecurity=False)
    made.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            made.update(block)
    return made.hexdigest()
