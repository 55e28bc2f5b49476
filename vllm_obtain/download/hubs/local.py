"""A model on this machine: copied into MODELS_DIR, so that it has a manifest and can be updated."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from vllm_obtain.download.file_selection import RepoFile
from vllm_obtain.download.hubs.base import RepoListing
from vllm_obtain.download.model_ref import ModelRef
from vllm_obtain.errors import SourceNotFound


class LocalHub:
    """A local file or folder.

    Args:
        source: the path.
    """

    def __init__(self, source: ModelRef) -> None:
        self._path = Path(source.where)

    def listing(self) -> RepoListing:
        """List the files; see `Hub.listing`."""
        path = self._path
        if not path.exists():
            raise SourceNotFound(f"{path} does not exist. Check the path.", param="model")
        files = [path] if path.is_file() else [f for f in sorted(path.rglob("*")) if f.is_file()]
        root = path.parent if path.is_file() else path
        pieces, digest = [], hashlib.sha256()
        for file in files:
            name, stat = str(file.relative_to(root)), file.stat()
            pieces.append(RepoFile(name, stat.st_size))
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="replace"))
        return RepoListing(f"files-{digest.hexdigest()[:16]}", pieces)

    def get(self, piece: RepoFile, target: Path) -> None:
        """Copy one file; see `Hub.get`."""
        source = self._path if self._path.is_file() else self._path / piece.path
        part = target.with_name(target.name + ".part")
        shutil.copyfile(source, part)
        part.replace(target)
