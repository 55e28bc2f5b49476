"""Hugging Face, or a mirror of it (HF_ENDPOINT), through its client library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vllm_obtain.download.file_selection import RepoFile
from vllm_obtain.download.http_transfer import download_file, translate_error
from vllm_obtain.download.hubs.base import Interrupted, RepoListing, Unreachable
from vllm_obtain.download.model_ref import ModelRef
from vllm_obtain.errors import SourceNotFound

# Seconds for the list of files; a hub that takes longer counts as unreachable.
TIMEOUT = 10.0


class HuggingFaceHub:
    """A repository on Hugging Face.

    Args:
        source: the repository.
        endpoint: HF_ENDPOINT.
    """

    def __init__(self, source: ModelRef, endpoint: str) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        self._source, self._endpoint = source, endpoint
        self._revision = source.revision or "main"

    def listing(self) -> RepoListing:
        """List the files; see `Hub.listing`."""
        from huggingface_hub import HfApi

        try:
            info = HfApi(self._endpoint).model_info(
                self._source.where,
                revision=self._source.revision or None,
                files_metadata=True,
                timeout=TIMEOUT,
            )
        except Exception as error:
            translated = translate_error(error)
            if isinstance(translated, Interrupted):
                raise Unreachable(str(translated)) from error
            raise translated from error
        if not info.sha:
            raise SourceNotFound(
                "The repository has no commit. Choose another repository.", param="model"
            )
        self._revision = info.sha
        return RepoListing(info.sha, [_repo_file(sibling) for sibling in info.siblings or []])

    def get(self, piece: RepoFile, target: Path) -> None:
        """Download one file; see `Hub.get`."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(
            self._source.where, piece.path, revision=self._revision, endpoint=self._endpoint
        )
        download_file(url, target, piece.size, build_hf_headers())


def _repo_file(sibling: Any) -> RepoFile:
    lfs = sibling.lfs
    return RepoFile(
        sibling.rfilename,
        lfs.size if lfs else sibling.size,
        lfs.sha256 if lfs else "",
        "" if lfs else sibling.blob_id or "",
    )
