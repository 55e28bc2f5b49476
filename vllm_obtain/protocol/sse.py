"""Server-sent events, the part of the format that OpenAI's streams use.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import msgspec

DONE = b"data: [DONE]\n\n"
# A comment: clients skip it, and what is between them and us sees that the connection lives.
WAITING = b": waiting\n\n"

_encode = msgspec.json.Encoder().encode


def event(payload: object) -> bytes:
    """Encode one event.

    Args:
        payload: anything msgspec can write as JSON; JSON has no raw line breaks, so one `data`
            line is enough.
    """
    return b"data: " + _encode(payload) + b"\n\n"


def named(name: str, payload: object) -> bytes:
    """Encode one event with a name.

    Args:
        name: of the kind of event.
        payload: as for `event`.
    """
    return b"event: " + name.encode() + b"\n" + event(payload)


class Splitter:
    """Cuts a byte stream into the data of its events, wherever the reads fell."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[bytes]:
        """Take what was read.

        Returns:
            The data of each event that is now complete; comments and other fields are left out.
        """
        text = self._rest + received if self._rest else received
        if _is_one_line(text):
            self._rest = b""
            return [text[6:-2]]
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *whole, self._rest = text.split(b"\n\n")
        return [data for block in whole if (data := _data(block)) is not None]


def _is_one_line(text: bytes) -> bool:
    """Whether it is one event and no more, as a token in its time comes: it needs no cutting."""
    return (
        text[:6] == b"data: "
        and text[-2:] == b"\n\n"
        and text.find(b"\n") == len(text) - 2
        and b"\r" not in text
    )


def _data(block: bytes) -> bytes | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].lstrip(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
