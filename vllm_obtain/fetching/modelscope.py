"""ModelScope, by its own client library (MODELSCOPE_ENDPOINT)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vllm_obtain.errors import SourceNotFound
from vllm_obtain.fetching.hub import Interrupted, Listing, Unreachable
from vllm_obtain.fetching.pieces import Piece
from vllm_obtain.fetching.source import Source

# What the library reads when it is imported.
_OURS = {
    # Each attempt is one of ours: it would give up after five cuts, however much arrived between.
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
    # Who does not answer at once is out of reach: there may be another hub.
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
    "MODELSCOPE_API_MAX_RETRIES": "1",
    "MODELSCOPE_API_CONNECT_TIMEOUT": "10",
    # A model of 40 GB over a slow line takes longer than the hour that it allows a file.
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": str(7 * 86_400),
    # The lock is ours too.
    "MODELSCOPE_DOWNLOAD_FILE_LOCK": "false",
    # It would ask Alibaba's own network which of its regions this is.
    "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false",
}


class ModelScope:
    """A repository there.

    Args:
        source: which one.
        endpoint: MODELSCOPE_ENDPOINT.
    """

    def __init__(self, source: Source, endpoint: str) -> None:
        for name, value in _OURS.items():
            os.environ.setdefault(name, value)
        from modelscope_hub import HubApi

        self._source = source
        self._revision = source.revision or "master"
        self._api = HubApi(endpoint=endpoint)

    def listing(self) -> Listing:
        """Say what there is; arguments and errors as in `Hub`."""
        from modelscope_hub.errors import HubError

        try:
            found = self._api.list_repo_files(
                self._source.where, "model", revision=self._revision, recursive=True
            )
        except (HubError, OSError, ValueError) as error:
            meant = _told(error)
            raise Unreachable(str(meant)) if isinstance(meant, Interrupted) else meant from error
        pieces = [
            Piece(each.path, each.size, (each.sha256 or "").lower())
            for each in found
            if each.type == "blob"
        ]
        # It tells no commit. What the files are is what matters of one.
        made = hashlib.sha256()
        for piece in sorted(pieces, key=lambda each: each.path):
            made.update(f"{piece.path}\0{piece.size}\0{piece.sha256}\n".encode())
        return Listing(f"files-{made.hexdigest()[:16]}", pieces)

    def get(self, piece: Piece, target: Path) -> None:
        """Bring one file; arguments and errors as in `Hub`."""
        from modelscope_hub.errors import FileIntegrityError, HubError

        folder = target.parents[len(Path(piece.path).parts) - 1]
        try:
            self._api.download_file(
                self._source.where,
                "model",
                piece.path,
                revision=self._revision,
                local_dir=folder,
                file_size=piece.size,
            )
        except FileIntegrityError as error:
            raise Interrupted(str(error)[:200]) from error
        except HubError as error:
            raise _told(error) from error


def _told(error: Exception) -> SourceNotFound | Interrupted:
    """Say what an error of the client library means."""
    status = getattr(error, "status_code", None)
    if status in (401, 403):
        return SourceNotFound(
            f"It is not given to us ({status}): set MODELSCOPE_API_TOKEN to a token that may read "
            "it.",
            param="model",
        )
    if status in (400, 404):
        return SourceNotFound("There is no such repository, revision or file.", param="model")
    return Interrupted(f"{type(error).__name__}: {str(error)[:200]}".splitlines()[0])
