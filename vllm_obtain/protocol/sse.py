"""Encodes server-sent events, as OpenAI's streams use them.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import msgspec

PREFIX, END = b"data: ", b"\n\n"
DONE = b"data: [DONE]\n\n"
# A comment: clients ignore it, and proxies see that the connection is alive.
WAITING = b": waiting\n\n"

encode = msgspec.json.Encoder().encode


def event(payload: object) -> bytes:
    """Encode one event.

    Args:
        payload: any value that msgspec can encode. JSON has no raw line breaks, so one `data`
            line is enough.
    """
    return PREFIX + encode(payload) + END


def named(name: str, payload: object) -> bytes:
    """Encode one event with a type.

    Args:
        name: type of the event.
        payload: as for `event`.
    """
    return b"event: " + name.encode() + b"\n" + event(payload)
