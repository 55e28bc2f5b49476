"""Downloads one file over HTTP with the client library of Hugging Face.

The library retries most interruptions after a second. It discards the partial file when it gives
up, so this module keeps the partial file itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_obtain.download.hubs.base import Interrupted
from vllm_obtain.errors import ServiceError, SourceNotFound

PART = ".part"
_CHUNK = 256 * 1024


def download_file(url: str, target: Path, size: int | None, headers: Mapping[str, Any]) -> None:
    """Download a file, resuming from the partial file beside the target.

    Args:
        url: the URL.
        target: the path of the complete file.
        size: bytes of the complete file, None if unknown.
        headers: request headers.

    Raises:
        Interrupted: the transfer was interrupted; a retry may succeed.
        SourceNotFound: the file does not exist, or access is denied.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get

    # An interruption loses the current chunk. With the library's default of 10 MB, a connection
    # that breaks earlier than that would never make progress.
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK

    part = target.with_name(target.name + PART)
    with part.open("ab") as file:
        offset = file.seek(0, os.SEEK_END)
        if size is not None and offset > size:
            file.truncate(0)
            offset = file.seek(0)
        try:
            # A compressed transfer cannot be resumed by byte offset.
            uncompressed = {**headers, "Accept-Encoding": "identity"}
            if size is None or offset < size:
                http_get(url, file, resume_size=offset, headers=uncompressed)
        except Exception as error:
            raise translate_error(error) from error
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)


def translate_error(error: Exception) -> ServiceError | Interrupted:
    """Translate an error of the client library.

    Raises:
        OSError: the error is one of the local disk.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return SourceNotFound(
            f"Access denied ({status}). Set HF_TOKEN to a token with read access, and accept the "
            "license on the model's page if it has one.",
            param="model",
        )
    if status in (404, 410):
        return SourceNotFound(
            "Repository, revision or file not found. Check the name.", param="model"
        )
    if isinstance(error, OSError) and error.errno is not None and status is None:
        raise error  # a disk error, which a retry does not fix
    return Interrupted(f"{type(error).__name__}: {str(error)[:200]}".splitlines()[0])
