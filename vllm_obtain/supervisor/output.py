"""What may be kept of an engine's output while it answers requests, since it may print their text.

Lines are recognised by form: places in a program and kinds of errors are kept, and the rest is not.
"""

from __future__ import annotations

import re

# vLLM's: which process, when, and where in its code.
_HEAD = re.compile(r"^(?:\([^()]{1,60}\) ?)?(?:[A-Z]+ [\d-]+ [\d:.]+ )?(?:\[[\w./:-]{1,80}\] ?)?")
_FRAME = re.compile(r'^\s*File "[^"]{1,300}", line \d+(?:, in [\w<>.]+)?$')
_KIND = re.compile(r"^([A-Za-z_][\w.]{0,100}(?:Error|Exception|Interrupt|Exit))(?:: |:?$)")
# An assertion in C++ shows the source, and a failed call of a driver's its name.
_ASSERTION = re.compile(r"^\S{1,300}\.(?:c|cc|cpp|cu|cuh|h|hpp|m|mm|metal):\d+: \w+\(.*\) failed$")
_FATAL = re.compile(
    r"^(?:Traceback \(most recent call last\):|Segmentation fault.{0,20}|Aborted.{0,20}|Killed"
    r"|Fatal Python error: [\w ]{1,60}|terminate called .{0,20}throwing an instance of '[\w:]+'"
    r"|CUDA error: [\w ]{1,80}|a process of vLLM's has died)$"
)


def discreet(line: str) -> str:
    """Leave out of a line what might be a request's text; nothing may be left."""
    head = _HEAD.match(line)
    place = head[0] if head else ""
    said = line[len(place) :]
    if _FRAME.match(said) or _FATAL.match(said) or _ASSERTION.match(said):
        return line
    if found := _KIND.match(said):
        return f"{place}{found[1]}"
    return place.rstrip()
