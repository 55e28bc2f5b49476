"""Reads numbers and strings from an untrusted GGUF header.

The file is not mapped into memory: if another process truncated it, SIGBUS would kill this one.
"""

from __future__ import annotations

import os
import struct
from typing import Final

Value = int | float | str | list[int] | list[float] | list[str]

MAX_HEADER: Final = 64 * 1024 * 1024  # bytes; the largest vocabularies need some 20 MiB
MAX_STRINGS: Final = 2_000_000  # in all arrays together; the largest vocabularies have 0.8 million
MAX_TEXT: Final = 64 * 1024  # bytes of a key, a name or a string in an array
MAX_LONG_TEXT: Final = 1024 * 1024  # bytes of a single string value, such as a chat template
BLOCK: Final = 256 * 1024

STRING: Final = 8
ARRAY: Final = 9
SCALARS: Final = {
    type_id: struct.Struct("<" + code)
    for type_id, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIifBQqd", strict=True)
}
INTEGERS: Final = frozenset({0, 1, 2, 3, 4, 5, 10, 11})

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class GGUFError(ValueError):
    """The file is not a usable GGUF file; the message completes "the file ..."."""


class HeaderReader:
    """A reader with a position in a file.

    All methods raise GGUFError if a length exceeds the file or a limit.

    Args:
        fd: an open file descriptor, which the caller closes.
    """

    def __init__(self, fd: int) -> None:
        self.at = 0
        self.size = os.fstat(fd).st_size
        self._fd = fd
        self._limit = min(self.size, MAX_HEADER)
        self._block = b""
        self._base = 0
        self._strings_left = MAX_STRINGS

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes; for small counts only."""
        self._require(self.at + count)
        start = self.at - self._base
        if not 0 <= start <= len(self._block) - count:
            self._fill(self.at, count)
            start = 0
        self.at += count
        return self._block[start : start + count]

    def skip(self, count: int) -> None:
        self._require(self.at + count)
        self.at += count

    def u32(self) -> int:
        """Read an unsigned 32-bit number."""
        return int(_U32.unpack(self.read(4))[0])

    def u64(self) -> int:
        """Read an unsigned 64-bit number."""
        return int(_U64.unpack(self.read(8))[0])

    def text(self, limit: int = MAX_TEXT) -> str:
        """Read a string of at most `limit` bytes; invalid UTF-8 is replaced."""
        length = self.u64()
        if length > limit:
            raise GGUFError(f"has a string of {length} bytes, more than the limit of {limit}")
        return self.read(length).decode("utf-8", "replace")

    def value(self, type_id: int) -> Value:
        """Read a value of this type, whole arrays included; booleans are returned as 0 or 1."""
        if type_id in SCALARS:
            return self._scalars(type_id, 1)[0]
        if type_id == STRING:
            return self.text(MAX_LONG_TEXT)
        if type_id != ARRAY:
            raise GGUFError(f"has a value of the unknown type {type_id}")
        type_id, count = self.u32(), self.u64()
        if type_id in SCALARS:
            return self._scalars(type_id, count)
        if type_id != STRING:
            raise GGUFError(f"has an array of the unsupported type {type_id}")
        self._require(self.at + 8 * count)
        return [self.text() for _ in range(count)]

    def _scalars(self, type_id: int, count: int) -> list[int]:
        scalar = SCALARS[type_id]
        self._require(self.at + count * scalar.size)
        return list(struct.unpack(f"<{count}{scalar.format[1:]}", self.read(count * scalar.size)))

    def skip_value(self, type_id: int) -> None:
        """Skip a value of this type, arrays included."""
        if type_id in SCALARS:
            self.skip(SCALARS[type_id].size)
        elif type_id == STRING:
            self.skip(self.u64())
        elif type_id == ARRAY:
            self._skip_array()
        else:
            raise GGUFError(f"has a value of the unknown type {type_id}")

    def _skip_array(self) -> None:
        type_id, count = self.u32(), self.u64()
        if type_id in SCALARS:
            self.skip(count * SCALARS[type_id].size)
        elif type_id == STRING:
            self.skip_strings(count)
        elif type_id == ARRAY:
            raise GGUFError("has an array inside an array")
        else:
            raise GGUFError(f"has an array of the unknown type {type_id}")

    def skip_strings(self, count: int) -> None:
        self._require(self.at + 8 * count)
        if count > self._strings_left:
            raise GGUFError(f"has more than {MAX_STRINGS} strings in its arrays")
        self._strings_left -= count
        # The hot loop of a scan: half a million iterations for a large vocabulary. It uses local
        # variables and avoids calls.
        base, block, last, offset = self.at, b"", -1, 0
        length_at = _U64.unpack_from
        for _ in range(count):
            if offset > last:
                base += offset
                self._require(base + 8)
                self._fill(base, 8)
                block, last, offset = self._block, len(self._block) - 8, 0
            offset += 8 + length_at(block, offset)[0]
        self._require(base + offset)
        self.at = base + offset

    def _require(self, end: int) -> None:
        if end > self.size:
            raise GGUFError("is truncated: it ends in its header")
        if end > self._limit:
            raise GGUFError(f"has a header of more than {MAX_HEADER} bytes")

    def _fill(self, at: int, count: int) -> None:
        self._block = os.pread(self._fd, max(count, BLOCK), at)
        self._base = at
        if len(self._block) < count:
            raise GGUFError("was truncated while it was read")
