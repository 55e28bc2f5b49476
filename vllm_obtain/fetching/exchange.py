"""Two folders change names in one step, so that at no moment one of them is missing."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Final

_HERE: Final = -100  # AT_FDCWD: paths are as they are
_EXCHANGE: Final = 2  # RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS
# File systems that cannot do it (NFS, some overlays), and kernels before it.
_CANNOT: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def exchange(one: Path, other: Path) -> bool:
    """Have two folders on one disk change names.

    Returns:
        False when this system cannot do that; then nothing has changed.

    Raises:
        OSError: one is not there, or not to be moved.
    """
    call = _call(os.fsencode(one), os.fsencode(other))
    if call is None:
        return False
    if call == 0:
        return True
    if call in _CANNOT:
        return False
    raise OSError(call, os.strerror(call), str(one), None, str(other))


def _call(one: bytes, other: bytes) -> int | None:
    """The number of the error, 0 for none, None where there is no such call."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = "renamex_np" if sys.platform == "darwin" else "renameat2"
    found = getattr(libc, name, None)
    if found is None:
        return None
    paths = (one, other) if sys.platform == "darwin" else (_HERE, one, _HERE, other)
    return ctypes.get_errno() if found(*paths, _EXCHANGE) else 0
