"""A model that is on this machine already: copied, so that it can be looked after like others."""

from __future__ import annotations

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
        if path.is_file():
            return Listing("", [Piece(path.name, path.stat().st_size)])
        if not path.is_dir():
            raise SourceNotFound(f"There is no {path}.", param="model")
        found = [each for each in sorted(path.rglob("*")) if each.is_file()]
        pieces = [Piece(str(f.relative_to(path)), f.stat().st_size) for f in found]
        return Listing("", pieces)

    def get(self, piece: Piece, target: Path) -> None:
        """Copy one file; arguments and errors as in `Hub`."""
        source = self._path if self._path.is_file() else self._path / piece.path
        part = target.with_name(target.name + ".part")
        shutil.copyfile(source, part)
        part.replace(target)
