"""Framing of the control socket: a 4-byte big-endian length, then a MessagePack body."""

from __future__ import annotations

import struct

import msgspec

from vllm_obtain.control.messages import Message

MAX_FRAME = 64 * 1024 * 1024
_HEADER = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode


class BrokenFrame(Exception):
    """The peer violates the protocol."""


def frame(message: Message) -> bytes:
    """Encode a message as a frame."""
    body = _encode(message)
    return _HEADER.pack(len(body)) + body


class FrameDecoder:
    """Splits a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> list[bytes]:
        """Add received bytes, and return the bodies of the frames that are complete.

        Raises:
            BrokenFrame: a frame is longer than MAX_FRAME bytes.
        """
        self._buffer += received
        bodies = []
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise BrokenFrame(f"a frame of {length} bytes exceeds {MAX_FRAME}")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[_HEADER.size : end]))
            del self._buffer[:end]
        return bodies
