"""A GGUF model as a conversion reads it: its metadata and where its tensors are."""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.files import opened
from vllm_obtain.catalogue.gguf_cursor import Cursor, GGUFError
from vllm_obtain.catalogue.gguf_layout import Layout, Tensor

_FIRST_PART = re.compile(r"(.+)-00001-of-(\d{5})\.gguf", re.ASCII | re.IGNORECASE)
_SMALL = 65536  # values


@dataclass(frozen=True, slots=True)
class Source:
    """An open GGUF model.

    Args:
        path: its file, or the first part of a split one.
        architecture: such as `llama`.
        tensors: each of its tensors by name, with the file that holds it.
    """

    path: Path
    architecture: str
    tensors: dict[str, tuple[Path, Tensor]]
    _layout: Layout

    def integer(self, key: str, default: int | None = None) -> int:
        """The whole number under a key."""
        value = self._layout.value(key)
        value = default if value is None else value
        if not isinstance(value, int):
            raise ConversionError(f"{self.path.name} has no usable {key}.")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """The positive number under a key; the shortest one that is the same in 32 bits."""
        value = self._layout.value(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConversionError(f"{self.path.name} has no usable {key}.")
        # 1e-05 is stored as 9.999999747378752e-06; seven digits bring the author's number back.
        return float(f"{value:.7g}")

    def text(self, key: str) -> str | None:
        """The string under a key, or None."""
        value = self._layout.value(key)
        return value if isinstance(value, str) else None

    def strings(self, key: str) -> list[str]:
        """The strings under a key; none if there is no such key."""
        value = self._layout.value(key)
        return [str(each) for each in value] if isinstance(value, list) else []

    def numbers(self, key: str) -> list[float]:
        """The numbers under a key; none if there is no such key."""
        value = self._layout.value(key)
        if not isinstance(value, list):
            return []
        return [each for each in value if not isinstance(each, str)]

    def floats(self, name: str) -> list[float]:
        """The values of a small tensor of F32."""
        path, tensor = self.tensors[name]
        count = math.prod(tensor.shape)
        if tensor.type_id != 0 or count > _SMALL:
            raise ConversionError(f"{name} is no short list of F32.")
        with opened(path) as fd:
            return list(struct.unpack(f"<{count}f", os.pread(fd, 4 * count, tensor.offset)))

    def hyper(self, name: str, default: int | None = None) -> int:
        """The whole number `name` of the architecture."""
        return self.integer(f"{self.architecture}.{name}", default)

    def has(self, name: str) -> bool:
        """Whether the architecture says anything about `name`."""
        return self._layout.has(f"{self.architecture}.{name}")


@contextmanager
def opened_source(path: Path) -> Iterator[Source]:
    """Open a GGUF model with all its parts.

    Args:
        path: the file, or the first part of a split one.

    Yields:
        The model; its files are closed at the end.

    Raises:
        ConversionError: it can't be read or is damaged.
    """
    with ExitStack() as stack:
        try:
            layouts = {
                part: Layout(Cursor(stack.enter_context(opened(part)))) for part in _parts(path)
            }
            first = layouts[path]
            tensors = {
                tensor.name: (part, tensor)
                for part, layout in layouts.items()
                for tensor in layout.tensors()
            }
            yield Source(path, first.text("general.architecture") or "", tensors, first)
        except GGUFError as error:
            raise ConversionError(f"{path.name} {error}.") from error
        except OSError as error:
            raise ConversionError(f"{path.name} can't be read: {error.strerror}.") from error


def _parts(path: Path) -> list[Path]:
    match = _FIRST_PART.fullmatch(path.name)
    if match is None:
        return [path]
    stem, count = match[1], int(match[2])
    ending = path.suffix
    return [path.with_name(f"{stem}-{n:05}-of-{count:05}{ending}") for n in range(1, count + 1)]
