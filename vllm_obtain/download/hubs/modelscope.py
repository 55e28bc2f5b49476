"""ModelScope (MODELSCOPE_ENDPOINT), through its client library."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vllm_obtain.download.file_selection import RepoFile
from vllm_obtain.download.hubs.base import Interrupted, RepoListing, Unreachable
from vllm_obtain.download.model_ref import ModelRef
from vllm_obtain.errors import SourceNotFound

# Environment variables that the library reads when it is imported.
_ENVIRONMENT = {
    # `FileTransfers` retries: the library gives up after five interruptions despite progress.
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
    # Fail quickly when the hub is unreachable, so that the next source is tried.
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
    "MODELSCOPE_API_MAX_RETRIES": "1",
    "MODELSCOPE_API_CONNECT_TIMEOUT": "10",
    # The default of one hour per file is too short for 40 GB over a slow connection.
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": str(7 * 86_400),
    # `StagingDir` locks.
    "MODELSCOPE_DOWNLOAD_FILE_LOCK": "false",
    # Skips a request that detects the region inside Alibaba's network.
    "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false",
}


class ModelScopeHub:
    """A repository on ModelScope.

    Args:
        source: the repository.
        endpoint: MODELSCOPE_ENDPOINT.
    """

    def __init__(self, source: ModelRef, endpoint: str) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from modelscope_hub import HubApi

        self._source = source
        self._revision = source.revision or "master"
        self._api = HubApi(endpoint=endpoint)

    def listing(self) -> RepoListing:
        """List the files; see `Hub.listing`."""
        from modelscope_hub.errors import HubError

        try:
            entries = self._api.list_repo_files(
                self._source.where, "model", revision=self._revision, recursive=True
            )
        except (HubError, OSError, ValueError) as error:
            failure = _translate_error(error)
            if isinstance(failure, Interrupted):
                raise Unreachable(str(failure)) from error
            raise failure from error
        pieces = [
            RepoFile(entry.path, entry.size, (entry.sha256 or "").lower())
            for entry in entries
            if entry.type == "blob"
        ]
        # The API returns no commit id, so the revision is a hash of the file list.
        digest = hashlib.sha256()
        for piece in sorted(pieces, key=lambda file: file.path):
            digest.update(f"{piece.path}\0{piece.size}\0{piece.sha256}\n".encode())
        return RepoListing(f"files-{digest.hexdigest()[:16]}", pieces)

    def get(self, piece: RepoFile, target: Path) -> None:
        """Download one file; see `Hub.get`."""
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
            raise _translate_error(error) from error


def _translate_error(error: Exception) -> SourceNotFound | Interrupted:
    status = getattr(error, "status_code", None)
    if status in (401, 403):
        return SourceNotFound(
            f"Access denied ({status}). Set MODELSCOPE_API_TOKEN to a token with read access.",
            param="model",
        )
    if status in (400, 404):
        return SourceNotFound(
            "Repository, revision or file not found. Check the name.", param="model"
        )
    return Interrupted(f"{type(error).__name__}: {str(error)[:200]}".splitlines()[0])
