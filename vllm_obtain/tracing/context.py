"""Parsing and rendering of the W3C Trace Context headers (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
# The specification allows dropping a longer `tracestate`.
_STATE = re.compile(r"[\x20-\x7e\t]{1,512}")
_INVALID_VERSION = "ff"


@dataclass(frozen=True)
class ParentContext:
    """The trace context of the client's request.

    Args:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        flags: 2 hexadecimal digits; the lowest bit is the sampled flag.
        state: `tracestate`, empty if absent.
    """

    trace_id: str
    span_id: str
    flags: str
    state: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return headers(self.trace_id, self.span_id, self.flags, self.state)


def read(parent: str, state: str) -> ParentContext | None:
    """Parse the headers of a request.

    Args:
        parent: `traceparent`. Unknown fields of later versions are ignored.
        state: `tracestate`; ignored if invalid.

    Returns:
        None if `traceparent` is invalid. The request then starts a trace.
    """
    match = _PARENT.fullmatch(parent.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, extra = match.groups()
    if version == _INVALID_VERSION or (version == "00" and extra) or not int(trace_id, 16):
        return None
    if not int(span_id, 16):
        return None
    return ParentContext(trace_id, span_id, flags, state if _STATE.fullmatch(state) else "")


def headers(trace_id: str, span_id: str, flags: str, state: str = "") -> dict[str, str]:
    """Render the headers; arguments as in `ParentContext`."""
    rendered = {"traceparent": f"00-{trace_id}-{span_id}-{flags}"}
    return {**rendered, "tracestate": state} if state else rendered
