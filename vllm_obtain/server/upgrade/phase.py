"""Phase of an upgrade, read by the workers of the old master several times a second."""

from __future__ import annotations

import contextlib
from pathlib import Path

from vllm_obtain.control import runtime_dir
from vllm_obtain.fs import atomic_write

# The service was told to stop, so the old version does not serve again.
STOPPING = "over"


class UpgradePhase:
    """File with the upgrade phase of a gunicorn master.

    Args:
        port: PORT.
        master: pid of the master.
        place: its runtime folder, one of `runtime_dir.PLACES`; None for that of this process.
    """

    def __init__(self, port: int, master: int, place: str | None = None) -> None:
        self._path: Path = runtime_dir.folder(port, place) / f"{runtime_dir.PHASE}{master}"

    def set(self, phase: str) -> None:
        """Write the phase.

        Args:
            phase: see `gateway/middleware/upgrade_hold.py`; empty if no upgrade is running.
        """
        if not phase:
            with contextlib.suppress(OSError):
                self._path.unlink()
            return
        with contextlib.suppress(OSError):  # without the folder there are no readers
            atomic_write(self._path, phase)

    def read(self) -> str:
        """Return the phase; empty if no upgrade is running."""
        return runtime_dir.read(self._path)
