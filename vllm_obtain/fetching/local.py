"""A model that is on this machine already: copied, so that it can be looked after like others."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from vllm_obtain.errors import SourceNotFound
from vllm_obtain.fetching.hub import Listing
from vllm_obtain.fetching.pieces import Piece
from vllm_obtain.fetching.source import Source


class Local:
    """A file or a folder.

    Args:
        source: its path.
    """

    def __init__(self, source: Source) -> None:
        self._path = Path(source.where)

    def listing(self) -> Listing:
        """Say what there is; arguments and errors as in `Hub`."""
        path = self._path
        if not path.exists():
            raise SourceNotFound(f"There is no {path}.", param="model")
        found = [path] if path.is_file() else [f for f in sorted(path.rglob("*")) if f.is_file()]
        home = path.parent if path.is_file() else path
        pieces, made = [], hashlib.sha256()
        for file in found:
            name, facts = str(file.relative_to(home)), file.stat()
            pieces.append(Piece(name, facts.st_size))
            made.update(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode(errors="replace"))
        return Listing(f"files-{made.hexdigest()[:16]}", pieces)

    def get(self, piece: Piece, target: Path) -> None:
        """Copy one file; arguments and errors as in `Hub`."""
        source = self._path if self._path.is_file() else self._path / piece.path
        part = target.with_name(target.name + ".part")
        shutil.copyfile(source, part)
        part.replace(target)
