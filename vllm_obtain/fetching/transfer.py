"""Brings one file over HTTP, by the client library of Hugging Face.

It goes on by itself after most cuts, a second later. What it gives up on it throws away, so the
unfinished file is ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_obtain.errors import ServiceError, SourceNotFound
from vllm_obtain.fetching.hub import Interrupted

PART = ".part"
_PIECE = 256 * 1024


def bring(url: str, target: Path, size: int | None, headers: Mapping[str, Any]) -> None:
    """Bring a file, going on from what is there.

    Args:
        url: where it is.
        target: where it shall be.
        size: its bytes, None when nobody said.
        headers: of the request.

    Raises:
        Interrupted: it broke off.
        SourceNotFound: it is gone, or not for us.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get

    # At each cut it loses what it has of a piece. With its own 10 MB, a line that breaks sooner
    # would never bring anything.
    constants.DOWNLOAD_CHUNK_SIZE = _PIECE

    part = target.with_name(target.name + PART)
    with part.open("ab") as file:
        had = file.seek(0, os.SEEK_END)
        if size is not None and had > size:
            file.truncate(0)
            had = file.seek(0)
        try:
            # Compressed bytes could not be gone on with.
            asked = {**headers, "Accept-Encoding": "identity"}
            if size is None or had < size:
                http_get(url, file, resume_size=had, headers=asked)
        except Exception as error:
            raise told(error) from error
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)


def told(error: Exception) -> ServiceError | Interrupted:
    """Say what an error of the client library means."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return SourceNotFound(
            f"It is not given to us ({status}): log in with a token (HF_TOKEN) that may read it, "
            "and accept its licence on its page where it has one.",
            param="model",
        )
    if status in (404, 410):
        return SourceNotFound("There is no such repository, revision or file.", param="model")
    if isinstance(error, OSError) and error.errno is not None and status is None:
        raise error  # the disk's, not the network's
    return Interrupted(f"{type(error).__name__}: {str(error)[:200]}".splitlines()[0])
