"""A file at an address. `#sha256=…` at its end is what its content has to be."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

from vllm_obtain.errors import InvalidRequest, SourceNotFound
from vllm_obtain.fetching.hub import Listing, Unreachable
from vllm_obtain.fetching.pieces import Piece, is_allowed
from vllm_obtain.fetching.source import Source
from vllm_obtain.fetching.transfer import bring

PATIENCE = 15.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Web:
    """One file somewhere.

    Args:
        source: its address.
    """

    def __init__(self, source: Source) -> None:
        self._url, self._said = urldefrag(source.where)
        self._tag = ""

    def listing(self) -> Listing:
        """Say what there is; arguments and errors as in `Hub`."""
        asked = urllib.request.Request(self._url, method="HEAD")  # noqa: S310 - checked by `source`
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:  # noqa: S310
                headers = answer.headers
        except urllib.error.HTTPError as error:
            raise SourceNotFound(f"It answers {error.code}.", param="model") from error
        except (OSError, ValueError) as error:
            raise Unreachable(str(error)) from error
        self._tag = headers.get("ETag", "")
        length = headers.get("Content-Length", "")
        name = PurePosixPath(unquote(urlsplit(self._url).path)).name
        if not is_allowed(name):
            raise SourceNotFound(f"'{name}' is no name for a model's file.", param="model")
        size = int(length) if length.isdigit() else None
        digest = self._digest(headers.get("X-Linked-ETag", "") or self._tag)
        revision = self._tag or headers.get("Last-Modified", "") or f"size-{size}"
        return Listing(revision, [Piece(name, size, digest)])

    def get(self, piece: Piece, target: Path) -> None:
        """Bring it; arguments and errors as in `Hub`."""
        # Another file under the same address is not what the first half belongs to.
        headers = {"If-Range": self._tag} if self._tag and not self._tag.startswith("W/") else {}
        bring(self._url, target, piece.size, headers)

    def _digest(self, tag: str) -> str:
        if self._said:
            said = self._said.removeprefix("sha256=").lower()
            if not _SHA256.fullmatch(said):
                raise InvalidRequest(
                    "What follows the # of an address has to be sha256= and 64 hex digits.",
                    param="model",
                )
            return said
        found = tag.strip('"').lower()
        return found if _SHA256.fullmatch(found) else ""
