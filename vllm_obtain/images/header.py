"""What the first bytes of an image's file say: its kind and its size. Nothing is decoded.

So an image that would take gigabytes once it is decoded is refused before anything does that. Where
a file has several sizes (a GIF's screen and its picture), the largest counts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple


class Header(NamedTuple):
    """A kind, as in `image/png`, and pixels."""

    kind: str
    width: int
    height: int


class HeaderError(ValueError):
    """The file is no such image, or ends too early."""


def read_header(data: bytes) -> Header:
    """Read the header of a PNG, JPEG, GIF or WebP file.

    Raises:
        HeaderError: it is none of these, or makes no sense.
    """
    for first, kind, size in _KINDS:
        if data.startswith(first):
            try:
                width, height = size(data)
            except (struct.error, IndexError):
                raise HeaderError(f"its {kind} header ends too early") from None
            if not width or not height:
                raise HeaderError(f"its {kind} header says {width} x {height} pixels")
            return Header(f"image/{kind}", width, height)
    raise HeaderError("it is no PNG, JPEG, GIF or WebP image")


def _png(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise HeaderError("its png header is not where it has to be")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg(data: bytes) -> tuple[int, int]:
    """Go from marker to marker until one begins a frame."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise HeaderError("its jpeg markers make no sense")
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker == 0xDA:
            raise HeaderError("its jpeg data comes before its size")
        if marker not in _ALONE:
            at += max(2, struct.unpack_from(">H", data, at)[0])


# Markers that begin a frame; three of that range are something else. And markers without a length.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


def _gif(data: bytes) -> tuple[int, int]:
    """The screen, or the first picture where that reaches beyond it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _colours(flags)
    while data[at] == 0x21:  # an extension: two bytes, then blocks with their lengths
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    if data[at] != 0x2C:
        raise HeaderError("it is a gif without a picture")
    left, top, across, down = struct.unpack_from("<HHHH", data, at + 1)
    return max(width, left + across), max(height, top + down)


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> tuple[int, int]:
    if data[8:12] != b"WEBP":
        raise HeaderError("it is no PNG, JPEG, GIF or WebP image")
    form = data[12:16]
    if form == b"VP8X":
        wide, high = data[24:27], data[27:30]
        if len(high) < 3:
            raise IndexError
        return int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1
    if form == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if form == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise HeaderError("its webp header is of an unknown form")


_KINDS: tuple[tuple[bytes, str, Callable[[bytes], tuple[int, int]]], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png", _png),
    (b"\xff\xd8\xff", "jpeg", _jpeg),
    (b"GIF87a", "gif", _gif),
    (b"GIF89a", "gif", _gif),
    (b"RIFF", "webp", _webp),
)
