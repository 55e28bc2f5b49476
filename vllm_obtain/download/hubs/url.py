"""A single file at a URL. An optional fragment `#sha256=…` gives its checksum."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

from vllm_obtain.download.file_selection import RepoFile, is_allowed
from vllm_obtain.download.http_transfer import download_file
from vllm_obtain.download.hubs.base import RepoListing, Unreachable
from vllm_obtain.download.model_ref import ModelRef
from vllm_obtain.errors import InvalidRequest, SourceNotFound

TIMEOUT = 15.0  # seconds
_SHA256 = re.compile(r"[0-9a-f]{64}")


class UrlHub:
    """A file at a URL.

    Args:
        source: the URL.
    """

    def __init__(self, source: ModelRef) -> None:
        self._url, self._fragment = urldefrag(source.where)
        self._tag = ""

    def listing(self) -> RepoListing:
        """List the one file; see `Hub.listing`."""
        request = urllib.request.Request(self._url, method="HEAD")  # noqa: S310 - `model_ref` checks it
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
                headers = response.headers
        except urllib.error.HTTPError as error:
            raise SourceNotFound(
                f"The server returned HTTP {error.code}. Check the URL.", param="model"
            ) from error
        except (OSError, ValueError) as error:
            raise Unreachable(str(error)) from error
        self._tag = headers.get("ETag", "")
        length = headers.get("Content-Length", "")
        name = PurePosixPath(unquote(urlsplit(self._url).path)).name
        if not is_allowed(name):
            raise SourceNotFound(
                f"'{name}' is not a model file. Use the URL of a .gguf file.", param="model"
            )
        size = int(length) if length.isdigit() else None
        digest = self._digest(headers.get("X-Linked-ETag", "") or self._tag)
        revision = self._tag or headers.get("Last-Modified", "") or f"size-{size}"
        return RepoListing(revision, [RepoFile(name, size, digest)])

    def get(self, piece: RepoFile, target: Path) -> None:
        """Download the file; see `Hub.get`."""
        # If the file at the URL has changed, the transfer starts from the beginning.
        headers = {"If-Range": self._tag} if self._tag and not self._tag.startswith("W/") else {}
        download_file(self._url, target, piece.size, headers)

    def _digest(self, tag: str) -> str:
        if self._fragment:
            digest = self._fragment.removeprefix("sha256=").lower()
            if not _SHA256.fullmatch(digest):
                raise InvalidRequest(
                    "The fragment of the URL is not a checksum. Use #sha256= and 64 hex digits.",
                    param="model",
                )
            return digest
        digest = tag.strip('"').lower()
        return digest if _SHA256.fullmatch(digest) else ""
