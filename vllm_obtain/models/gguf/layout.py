"""Indexes the metadata values of a GGUF file and checks that it contains all its tensors.

Source: docs/gguf.md of ggml, and the reader in ggml/src/gguf.cpp of llama.cpp.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vllm_obtain.models.gguf.reader import (
    ARRAY,
    INTEGERS,
    MAX_TEXT,
    SCALARS,
    STRING,
    GGUFError,
    HeaderReader,
    Value,
)
from vllm_obtain.models.gguf.tables import TENSOR_BLOCKS

MAX_PAIRS: Final = 10_000  # real files have some 50
MAX_TENSORS: Final = 200_000  # real files have hundreds
MAX_LAYERS: Final = 4096
MAX_KEY: Final = 128  # characters; longer keys are never looked up and are skipped
_MIN_PAIR_BYTES: Final = 13
_MIN_TENSOR_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a GGUF file.

    Args:
        name: such as `blk.0.attn_q.weight`.
        shape: rows first, as in numpy and safetensors; GGUF stores the reverse order.
        type_id: the ggml type number.
        offset: the position in the file, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int


class GGUFMetadata:
    """The metadata of a GGUF file; values are read on access.

    Args:
        cursor: a reader at the start of the file, which must stay open for every access.

    Raises:
        GGUFError: the file is not GGUF version 2 or 3, is truncated, or is invalid.
    """

    def __init__(self, cursor: HeaderReader) -> None:
        self._cursor = cursor
        # Stores positions and no values, so that a crafted file cannot exhaust memory.
        self._positions: dict[str, int] = {}
        pairs = self._read_counts()
        for _ in range(pairs):
            self._read_pair()
        self._check_tensors()

    def has(self, key: str) -> bool:
        """Whether the file has this key."""
        return key in self._positions

    def text(self, key: str) -> str | None:
        """The string under this key, or None."""
        type_id = self._seek(key)
        if type_id is None:
            return None
        if type_id != STRING:
            raise GGUFError(f"has a {key} that is not a string")
        return self._cursor.text()

    def length(self, key: str) -> int | None:
        """The number of elements in the array under this key, or None."""
        type_id = self._seek(key)
        if type_id is None:
            return None
        if type_id != ARRAY:
            raise GGUFError(f"has a {key} that is not an array")
        self._cursor.u32()
        return self._cursor.u64()

    def texts_at(self, key: str, indices: Sequence[int]) -> list[str]:
        """The strings at some indices, in ascending order, of the array under this key."""
        length = self.length(key) or 0
        self._seek(key)
        if not length or self._cursor.u32() != STRING:
            return []
        self._cursor.u64()
        result, at = [], 0
        for index in indices:
            if not at <= index < length:
                break
            self._cursor.skip_strings(index - at)
            result.append(self._cursor.text())
            at = index + 1
        return result

    def number(self, key: str) -> int | None:
        """The number under this key, or None."""
        value = self.numbers(key)
        if isinstance(value, tuple):
            raise GGUFError(f"has a {key} that is not a single number")
        return value

    def numbers(self, key: str) -> int | tuple[int, ...] | None:
        """The number under this key, or one number per layer if the value is an array."""
        type_id = self._seek(key)
        if type_id is None:
            return None
        if type_id != ARRAY:
            return self._number(key, type_id)
        type_id, count = self._cursor.u32(), self._cursor.u64()
        if count > MAX_LAYERS:
            raise GGUFError(f"has a {key} with {count} elements")
        return tuple(self._number(key, type_id) for _ in range(count))

    def scalar(self, key: str) -> int | float | None:
        """The integer or float under this key, or None."""
        type_id = self._seek(key)
        if type_id is None:
            return None
        if type_id not in SCALARS:
            raise GGUFError(f"has a {key} that is not a single number")
        scalar = SCALARS[type_id]
        number: int | float = scalar.unpack(self._cursor.read(scalar.size))[0]
        return number

    def value(self, key: str) -> Value | None:
        """The value under this key, or None; reads whole arrays, so a scan must not use it."""
        type_id = self._seek(key)
        return None if type_id is None else self._cursor.value(type_id)

    def tensors(self) -> list[Tensor]:
        """All tensors of this file."""
        cursor = self._cursor
        cursor.at = self._tensors_at
        result = []
        for _ in range(self.tensor_count):
            name, dimensions = cursor.text(), cursor.u32()
            shape = struct.unpack(f"<{dimensions}Q", cursor.read(8 * dimensions))
            type_id, offset = cursor.u32(), cursor.u64()
            result.append(Tensor(name, shape[::-1], type_id, self._data_at + offset))
        return result

    def _number(self, key: str, type_id: int) -> int:
        if type_id not in INTEGERS:
            raise GGUFError(f"has a {key} that is not an integer")
        scalar = SCALARS[type_id]
        value = int(scalar.unpack(self._cursor.read(scalar.size))[0])
        if not 0 <= value < 2**31:
            raise GGUFError(f"has an impossible {key} of {value}")
        return value

    def _seek(self, key: str) -> int | None:
        position = self._positions.get(key)
        if position is None:
            return None
        self._cursor.at = position
        return self._cursor.u32()

    def _read_counts(self) -> int:
        cursor = self._cursor
        if cursor.size < 24 or cursor.read(4) != b"GGUF":
            raise GGUFError("is not a GGUF file")
        version = cursor.u32()
        if version not in (2, 3):
            hint = " (big-endian)" if version & 0xFFFF == 0 and version else ""
            raise GGUFError(f"has GGUF version {version}{hint}; supported are versions 2 and 3")
        self.tensor_count, pairs = cursor.u64(), cursor.u64()
        if self.tensor_count > MAX_TENSORS or pairs > MAX_PAIRS:
            raise GGUFError(
                f"declares {self.tensor_count} tensors and {pairs} metadata values, which is too "
                "many"
            )
        needed = 24 + pairs * _MIN_PAIR_BYTES + self.tensor_count * _MIN_TENSOR_BYTES
        if needed > cursor.size:
            raise GGUFError("is truncated: it ends in its header")
        return pairs

    def _read_pair(self) -> None:
        key = self._cursor.text()
        if len(key) <= MAX_KEY:
            if key in self._positions:
                raise GGUFError(f"has the key {key} twice")
            self._positions[key] = self._cursor.at
        self._cursor.skip_value(self._cursor.u32())

    def _check_tensors(self) -> None:
        cursor = self._cursor
        self._tensors_at = cursor.at
        ends = [self._tensor_end() for _ in range(self.tensor_count)]
        after_header = cursor.at
        alignment = self.number("general.alignment")
        alignment = 32 if alignment is None else alignment
        if alignment < 1 or alignment & (alignment - 1):
            raise GGUFError(f"has an impossible general.alignment of {alignment}")
        self._data_at = -(-after_header // alignment) * alignment
        expected = self._data_at + max(ends, default=0)
        if ends and expected > cursor.size:
            raise GGUFError(f"is truncated: it has {cursor.size} of {expected} bytes")

    def _tensor_end(self) -> int:
        cursor = self._cursor
        length = cursor.u64()
        if length > MAX_TEXT:
            raise GGUFError(f"has a tensor with a name of {length} bytes")
        cursor.skip(length)
        dimensions = cursor.u32()
        if dimensions > 4:
            raise GGUFError(f"has a tensor with {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", cursor.read(8 * dimensions))
        type_id, offset = cursor.u32(), cursor.u64()
        elements, size = TENSOR_BLOCKS.get(type_id, (1, 0))
        if shape and shape[0] % elements:
            raise GGUFError("has a tensor whose rows do not fit its type")
        return int(offset + math.prod(shape) // elements * size)
