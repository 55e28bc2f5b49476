from __future__ import annotations

import contextlib
import random
import struct

import pytest

from tests.vision.model import png
from vllm_obtain.images.header import ImageHeaderError, read_header

JFIF = b"\xff\xe0" + struct.pack(">H", 16) + bytes(14)
SIZE = struct.pack(">HBHH", 11, 8, 300, 400) + bytes(4)


def jpeg(*segments: bytes, frame: int = 0xC0) -> bytes:
    return b"\xff\xd8" + b"".join(segments) + bytes([0xFF, frame]) + SIZE


def gif(extra: bytes = b"", picture: tuple[int, int] = (5, 6), colours: int = 0) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", 30, 20, 0x80 | colours, 0, 0)
    table = bytes(3 * 2 ** (colours + 1))
    return head + table + extra + b"," + struct.pack("<HHHHB", 0, 0, *picture, 0)


def webp(form: bytes, rest: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 100) + b"WEBP" + form + struct.pack("<I", 50) + rest


VP8X = webp(b"VP8X", bytes(4) + (399).to_bytes(3, "little") + (299).to_bytes(3, "little"))
VP8L = webp(b"VP8L", b"\x2f" + struct.pack("<I", 399 | 299 << 14))
VP8 = webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 400 | 1 << 14, 300))
COMMENT = b"\x21\xfe\x03abc\x02de\x00"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (png(400, 300), ("image/png", 400, 300)),
        (jpeg(), ("image/jpeg", 400, 300)),
        (jpeg(JFIF, b"\xff\xff\xff\xdb\x00\x04ab", frame=0xC2), ("image/jpeg", 400, 300)),
        # A thumbnail in a segment is no frame of the image.
        (jpeg(b"\xff\xe1\x00\x0c" + jpeg()[:10]), ("image/jpeg", 400, 300)),
        (gif(), ("image/gif", 30, 20)),
        (gif(COMMENT * 2, colours=7), ("image/gif", 30, 20)),
        (gif(picture=(500, 6)), ("image/gif", 500, 20)),
        (VP8X, ("image/webp", 400, 300)),
        (VP8L, ("image/webp", 400, 300)),
        (VP8, ("image/webp", 400, 300)),
    ],
)
def test_sizes(data: bytes, found: tuple[str, int, int]) -> None:
    assert read_header(data) == found


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg/>",
        b"BM" + bytes(60),
        b"RIFF\0\0\0\0WAVEfmt ",
        webp(b"ANIM", bytes(20)),
        png(1, 1).replace(b"IHDR", b"IEND"),
        png(0, 1),
        b"\xff\xd8\xff\xda\x00\x04ab",
        b"\xff\xd8\xff\xe0\x00\x02ab",
        gif()[:13] + bytes(6) + b";",
    ],
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(ImageHeaderError):
        read_header(data)


@pytest.mark.parametrize("data", [png(), jpeg(JFIF), gif(COMMENT), VP8X, VP8L, VP8])
def test_damage(data: bytes) -> None:
    """Whatever the bytes are, it is a size or a HeaderError."""
    draw = random.Random(1)  # noqa: S311
    for number in range(300):
        broken = bytearray(data[: draw.randrange(len(data))] if number % 2 else data)
        for _ in range(3):
            if broken:
                broken[draw.randrange(len(broken))] = draw.randrange(256)
        with contextlib.suppress(ImageHeaderError):
            assert read_header(bytes(broken)).width > 0
