"""The two headers of W3C's Trace Context: read, held to their form, passed on."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
# Members of vendors; what exceeds this may be dropped.
_STATE = re.compile(r"[\x20-\x7e\t]{1,512}")
_NEVER = "ff"


@dataclass(frozen=True)
class Remote:
    """Who asks us.

    Args:
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them.
        flags: two; the lowest bit says whether the trace is kept.
        state: `tracestate`, empty where there is none.
    """

    trace_id: str
    span_id: str
    flags: str
    state: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Both headers, for who is asked next."""
        return headers(self.trace_id, self.span_id, self.flags, self.state)


def read(parent: str, state: str) -> Remote | None:
    """Read the headers of a request.

    Args:
        parent: `traceparent`; a later version's is read as far as this one knows it.
        state: `tracestate`; left out when it is none.

    Returns:
        None when there is no valid `traceparent`: then the request begins a trace of its own.
    """
    found = _PARENT.fullmatch(parent.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == _NEVER or (version == "00" and more) or not int(trace_id, 16):
        return None
    if not int(span_id, 16):
        return None
    return Remote(trace_id, span_id, flags, state if _STATE.fullmatch(state) else "")


def headers(trace_id: str, span_id: str, flags: str, state: str = "") -> dict[str, str]:
    """Write the headers; arguments as in `Remote`."""
    written = {"traceparent": f"00-{trace_id}-{span_id}-{flags}"}
    return {**written, "tracestate": state} if state else written
