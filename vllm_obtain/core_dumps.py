"""Disables core dumps, which would contain prompts and API keys."""

from __future__ import annotations

import contextlib
import resource
import sys

from vllm_obtain.config.settings import Settings

# If `core_pattern` is a pipe, Linux ignores all limits but 1. For a core file, 1 byte is less than
# the minimum size, so none is written. See core(5).
_NONE = 1 if sys.platform == "linux" else 0


def forbid(settings: Settings) -> None:
    """Disable core dumps of this process and its children, unless CORE_FILES is on."""
    if not settings.core_files:
        with contextlib.suppress(OSError, ValueError):
            _, most = resource.getrlimit(resource.RLIMIT_CORE)
            # The hard limit may be 0 already, and cannot be exceeded.
            limit = _NONE if most == resource.RLIM_INFINITY else min(_NONE, most)
            resource.setrlimit(resource.RLIMIT_CORE, (limit, most))
