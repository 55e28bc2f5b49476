"""Frames on the control socket: four bytes of length, big-endian, then MessagePack."""

from __future__ import annotations

import struct

import msgspec

from vllm_obtain.messages import Message

MAX_FRAME = 64 * 1024 * 1024
_HEADER = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode


class BrokenFrame(Exception):
    """The peer does not speak this protocol."""


def frame(message: Message) -> bytes:
    """Encode one message with its length in front."""
    body = _encode(message)
    return _HEADER.pack(len(body)) + body


class Frames:
    """Cuts a byte stream into frames, wherever the reads fell."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> list[bytes]:
        """Take what was read and return the bodies of the frames that are now complete.

        Raises:
            BrokenFrame: a frame claims more than MAX_FRAME bytes.
        """
        self._buffer += received
        bodies = []
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise BrokenFrame(f"a frame of {length} bytes")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[_HEADER.size : end]))
            del self._buffer[:end]
        return bodies
