"""Exchanges two folders in one atomic step, so that neither is ever missing."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2  # RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS
# Errors of file systems without atomic exchange (NFS, some overlays), and of old kernels.
_UNSUPPORTED: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two folders on one disk.

    Returns:
        False if the system does not support it; nothing has changed then.

    Raises:
        OSError: a folder does not exist or cannot be renamed.
    """
    error = _rename_exchange(os.fsencode(first), os.fsencode(second))
    if error == 0:
        return True
    if error is None or error in _UNSUPPORTED:
        return False
    raise OSError(error, os.strerror(error), str(first), None, str(second))


def _rename_exchange(first: bytes, second: bytes) -> int | None:
    """Call the C library; returns the errno, 0 for success, None if the function is missing."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = "renamex_np" if sys.platform == "darwin" else "renameat2"
    function = getattr(libc, name, None)
    if function is None:
        return None
    paths = (first, second) if sys.platform == "darwin" else (_AT_FDCWD, first, _AT_FDCWD, second)
    return ctypes.get_errno() if function(*paths, _RENAME_EXCHANGE) else 0
