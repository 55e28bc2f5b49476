"""Redaction of engine output while the engine serves requests, since it may contain their text.

Only lines of known patterns are kept: locations in source code and types of errors.
"""

from __future__ import annotations

import re

# Prefix of vLLM's log lines: process, time, and source location.
_HEAD = re.compile(r"^(?:\([^()]{1,60}\) ?)?(?:[A-Z]+ [\d-]+ [\d:.]+ )?(?:\[[\w./:-]{1,80}\] ?)?")
_FRAME = re.compile(r'^\s*File "[^"]{1,300}", line \d+(?:, in [\w<>.]+)?$')
_ERROR_TYPE = re.compile(r"^([A-Za-z_][\w.]{0,100}(?:Error|Exception|Interrupt|Exit))(?:: |:?$)")
# A failed C++ assertion shows its source, and a failed driver call its name.
_ASSERTION = re.compile(r"^\S{1,300}\.(?:c|cc|cpp|cu|cuh|h|hpp|m|mm|metal):\d+: \w+\(.*\) failed$")
_FATAL = re.compile(
    r"^(?:Traceback \(most recent call last\):|Segmentation fault.{0,20}|Aborted.{0,20}|Killed"
    r"|Fatal Python error: [\w ]{1,60}|terminate called .{0,20}throwing an instance of '[\w:]+'"
    r"|CUDA error: [\w ]{1,80}|a process of vLLM's has died)$"
)


def redact(line: str) -> str:
    """Remove everything from a line that may be text of a request. The result may be empty."""
    head = _HEAD.match(line)
    prefix = head[0] if head else ""
    text = line[len(prefix) :]
    if _FRAME.match(text) or _FATAL.match(text) or _ASSERTION.match(text):
        return line
    if error_type := _ERROR_TYPE.match(text):
        return f"{prefix}{error_type[1]}"
    return prefix.rstrip()
