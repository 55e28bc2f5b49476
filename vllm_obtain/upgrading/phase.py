"""How far an upgrade is, for the workers of the old master, who read it several times a second."""

from __future__ import annotations

import contextlib
from pathlib import Path

from vllm_obtain.supervisor import runtime

# The service is told to end: a version that is being replaced by it does not come back then.
OVER = "over"


class Phase:
    """The file that tells a master's workers what to do with requests.

    Args:
        port: PORT.
        master: its pid.
        place: where it is; in our own place when left out.
    """

    def __init__(self, port: int, master: int, place: str | None = None) -> None:
        self._path: Path = runtime.folder(port, place) / f"{runtime.PHASE}{master}"

    def tell(self, word: str) -> None:
        """Set the word; see `api/moving.py` for which there are. An empty one is no upgrade."""
        if not word:
            with contextlib.suppress(OSError):
                self._path.unlink()
            return
        new = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):  # the folder has gone, and all who would read
            new.write_text(word)
            new.replace(self._path)

    def read(self) -> str:
        """The word, empty when there is none."""
        return runtime.read(self._path)
