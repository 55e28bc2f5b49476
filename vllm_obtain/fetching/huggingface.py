"""Hugging Face, or whoever speaks its protocol (HF_ENDPOINT), by its own client library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vllm_obtain.errors import SourceNotFound
from vllm_obtain.fetching.hub import Interrupted, Listing, Unreachable
from vllm_obtain.fetching.pieces import Piece
from vllm_obtain.fetching.source import Source
from vllm_obtain.fetching.transfer import bring, told

# Seconds for the list of files; whoever does not answer by then is out of reach.
PATIENCE = 10.0


class HuggingFace:
    """A repository there.

    Args:
        source: which one.
        endpoint: HF_ENDPOINT.
    """

    def __init__(self, source: Source, endpoint: str) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        self._source, self._endpoint = source, endpoint
        self._revision = source.revision or "main"

    def listing(self) -> Listing:
        """Say what there is; arguments and errors as in `Hub`."""
        from huggingface_hub import HfApi

        try:
            info = HfApi(self._endpoint).model_info(
                self._source.where,
                revision=self._source.revision or None,
                files_metadata=True,
                timeout=PATIENCE,
            )
        except Exception as error:
            found = told(error)
            if isinstance(found, Interrupted):
                raise Unreachable(str(found)) from error
            raise found from error
        if not info.sha:
            raise SourceNotFound("Its repository has no commit.", param="model")
        self._revision = info.sha
        return Listing(info.sha, [_piece(each) for each in info.siblings or []])

    def get(self, piece: Piece, target: Path) -> None:
        """Bring one file; arguments and errors as in `Hub`."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(
            self._source.where, piece.path, revision=self._revision, endpoint=self._endpoint
        )
        bring(url, target, piece.size, build_hf_headers())


def _piece(sibling: Any) -> Piece:
    lfs = sibling.lfs
    return Piece(
        sibling.rfilename,
        lfs.size if lfs else sibling.size,
        lfs.sha256 if lfs else "",
        "" if lfs else sibling.blob_id or "",
    )
