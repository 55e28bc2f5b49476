"""Reads the format and dimensions from the header of an image file, without decoding pixels.

An image that would take gigabytes of memory is rejected before any decoder sees it. If a file
declares several sizes (the screen and the first frame of a GIF), the largest counts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

_UNKNOWN = "it is not a PNG, JPEG, GIF or WebP image"


class ImageHeader(NamedTuple):
    """The media type (such as `image/png`), and the size in pixels."""

    kind: str
    width: int
    height: int


class ImageHeaderError(ValueError):
    """The file is not an image of a supported format, or its header is invalid."""


def read_header(data: bytes) -> ImageHeader:
    """Read the header of a PNG, JPEG, GIF or WebP file.

    Raises:
        ImageHeaderError: the format is not supported, or the header is invalid.
    """
    for magic, kind, read_size in _KINDS:
        if data.startswith(magic):
            try:
                width, height = read_size(data)
            except (struct.error, IndexError):
                raise ImageHeaderError(f"its {kind} header is truncated") from None
            if not width or not height:
                raise ImageHeaderError(f"its {kind} header gives {width} x {height} pixels")
            return ImageHeader(f"image/{kind}", width, height)
    raise ImageHeaderError(_UNKNOWN)


def _png(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise ImageHeaderError("it does not start with an IHDR chunk")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg(data: bytes) -> tuple[int, int]:
    """Skip markers until the start of a frame."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ImageHeaderError("its jpeg markers are invalid")
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker == 0xDA:
            raise ImageHeaderError("its jpeg scan starts before a frame header")
        if marker not in _WITHOUT_LENGTH:
            at += max(2, struct.unpack_from(">H", data, at)[0])


# Start-of-frame markers (C4, C8 and CC are others), and markers without a length field.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def _gif(data: bytes) -> tuple[int, int]:
    """The logical screen, or the first frame if it extends beyond the screen."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _color_table_size(flags)
    while data[at] == 0x21:  # an extension: two bytes, then blocks with their lengths
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    if data[at] != 0x2C:
        raise ImageHeaderError("it is a gif without a frame")
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def _color_table_size(flags: int) -> int:
    """Bytes of the global color table."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> tuple[int, int]:
    if data[8:12] != b"WEBP":
        raise ImageHeaderError(_UNKNOWN)
    chunk = data[12:16]
    if chunk == b"VP8X":
        wide, high = data[24:27], data[27:30]
        if len(high) < 3:
            raise IndexError
        return int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ImageHeaderError("its webp chunk type is unknown")


_KINDS: tuple[tuple[bytes, str, Callable[[bytes], tuple[int, int]]], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png", _png),
    (b"\xff\xd8\xff", "jpeg", _jpeg),
    (b"GIF87a", "gif", _gif),
    (b"GIF89a", "gif", _gif),
    (b"RIFF", "webp", _webp),
)
