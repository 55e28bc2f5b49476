"""Whether a crash of this process, or of those it starts, may leave a file with all its memory."""

from __future__ import annotations

import contextlib
import resource
import sys

from vllm_obtain.settings import Settings

# Linux hands a core to a program (a `core_pattern` that begins with a pipe) whatever the limit
# says, unless it is 1; and for a file that is less than it ever writes. See core(5).
_NONE = 1 if sys.platform == "linux" else 0


def forbid(settings: Settings) -> None:
    """Have no core files written from here on down, unless the owner wants them."""
    if not settings.core_files:
        with contextlib.suppress(OSError, ValueError):
            _, most = resource.getrlimit(resource.RLIMIT_CORE)
            # An owner's own limit of 0 may be one that nobody can raise again.
            least = _NONE if most == resource.RLIM_INFINITY else min(_NONE, most)
            resource.setrlimit(resource.RLIMIT_CORE, (least, most))
