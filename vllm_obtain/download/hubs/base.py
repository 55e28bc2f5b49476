"""The interface of download sources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from vllm_obtain.download.file_selection import RepoFile


class Unreachable(Exception):
    """The source cannot be reached; another source may be available."""


class Interrupted(Exception):
    """The transfer was interrupted; the partial file is on disk and can be resumed."""


class RepoListing(Struct, frozen=True):
    """The files of a source.

    Args:
        revision: the revision of the source; it changes when any file changes.
        pieces: all files.
    """

    revision: str
    pieces: Sequence[RepoFile]


class Hub(Protocol):
    """A download source, created for one model reference."""

    def listing(self) -> RepoListing:
        """List the files.

        Raises:
            Unreachable: the source cannot be reached.
            SourceNotFound: the model does not exist, or access is denied.
        """

    def get(self, piece: RepoFile, target: Path) -> None:
        """Download one file in one attempt, resuming a partial file.

        Args:
            piece: a file of the listing.
            target: the path of the complete file; the partial file lies beside it.

        Raises:
            Interrupted: the transfer was interrupted; a retry may succeed.
            SourceNotFound: the file does not exist, or access is denied.
        """
