"""Reads the metadata and the tensor locations of a GGUF model for a conversion."""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.gguf.layout import GGUFMetadata, Tensor
from vllm_obtain.models.gguf.reader import GGUFError, HeaderReader
from vllm_obtain.models.safe_open import opened

_FIRST_PART = re.compile(r"(.+)-00001-of-(\d{5})\.gguf", re.ASCII | re.IGNORECASE)
_SMALL = 65536  # values


@dataclass(frozen=True, slots=True)
class GGUFSource:
    """An open GGUF model.

    Args:
        path: the file, or the first part of a split one.
        architecture: such as `llama`.
        tensors: the tensors by name, each with the file that contains it.
    """

    path: Path
    architecture: str
    tensors: dict[str, tuple[Path, Tensor]]
    _layout: GGUFMetadata

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._layout.value(key)
        value = default if value is None else value
        if not isinstance(value, int):
            raise ConversionError(f"{self.path.name} has no valid {key}. Download the model again.")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Return the positive number of a key, in its shortest decimal form."""
        value = self._layout.value(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConversionError(f"{self.path.name} has no valid {key}. Download the model again.")
        # 1e-05 is stored as 9.999999747378752e-06; seven digits restore the original number.
        return float(f"{value:.7g}")

    def text(self, key: str) -> str | None:
        """Return the string of a key, or None."""
        value = self._layout.value(key)
        return value if isinstance(value, str) else None

    def strings(self, key: str) -> list[str]:
        """Return the strings of a key; empty if the key is missing."""
        value = self._layout.value(key)
        return [str(each) for each in value] if isinstance(value, list) else []

    def numbers(self, key: str) -> list[float]:
        """Return the numbers of a key; empty if the key is missing."""
        value = self._layout.value(key)
        if not isinstance(value, list):
            return []
        return [each for each in value if not isinstance(each, str)]

    def floats(self, name: str) -> list[float]:
        """Return the values of a small F32 tensor."""
        path, tensor = self.tensors[name]
        count = math.prod(tensor.shape)
        if tensor.type_id != 0 or count > _SMALL:
            raise ConversionError(f"{name} is not a small F32 tensor. Download the model again.")
        with opened(path) as fd:
            return list(struct.unpack(f"<{count}f", os.pread(fd, 4 * count, tensor.offset)))

    def hyper(self, name: str, default: int | None = None) -> int:
        """Return the architecture's integer parameter `name`."""
        return self.integer(f"{self.architecture}.{name}", default)

    def has(self, name: str) -> bool:
        """Whether the architecture's parameter `name` is set."""
        return self._layout.has(f"{self.architecture}.{name}")


@contextmanager
def open_source(path: Path) -> Iterator[GGUFSource]:
    """Open a GGUF model with all its parts.

    Args:
        path: the file, or the first part of a split one.

    Yields:
        The model; its files are closed afterwards.

    Raises:
        ConversionError: a file cannot be read or is damaged.
    """
    with ExitStack() as stack:
        try:
            layouts = {
                part: GGUFMetadata(HeaderReader(stack.enter_context(opened(part))))
                for part in _parts(path)
            }
            first = layouts[path]
            tensors = {
                tensor.name: (part, tensor)
                for part, layout in layouts.items()
                for tensor in layout.tensors()
            }
            yield GGUFSource(path, first.text("general.architecture") or "", tensors, first)
        except GGUFError as error:
            raise ConversionError(f"{path.name} {error}.") from error
        except OSError as error:
            raise ConversionError(f"Cannot read {path.name}: {error.strerror}.") from error


def _parts(path: Path) -> list[Path]:
    match = _FIRST_PART.fullmatch(path.name)
    if match is None:
        return [path]
    stem, count = match[1], int(match[2])
    ending = path.suffix
    return [path.with_name(f"{stem}-{n:05}-of-{count:05}{ending}") for n in range(1, count + 1)]
