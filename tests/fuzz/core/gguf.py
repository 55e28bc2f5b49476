"""Headers of GGUF files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from random import Random

from tests.fuzz.core.loop import Case
from tests.fuzz.core.mutate import damage, pick
from tests.models.gguf_files import gguf_bytes
from vllm_obtain.models.gguf.header import GGUFError, check_part, read_header

_MEMORY = "/dev/shm"


class GGUF:
    """The reader of headers, and that of further parts."""

    name = "gguf"

    def __init__(self) -> None:
        folder = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        self._folder = tempfile.TemporaryDirectory(dir=folder)
        self._path = Path(self._folder.name) / "x.gguf"
        self._originals = [gguf_bytes(tensors=count) for count in (0, 1, 4)]

    def make(self, chance: Random) -> Case:
        """A file."""
        return [damage(pick(chance, self._originals), chance)]

    def run(self, case: Case) -> None:
        """Read it."""
        self._path.write_bytes(b"".join(case))
        with contextlib.suppress(GGUFError):
            read_header(self._path)
        with contextlib.suppress(GGUFError):
            check_part(self._path)
