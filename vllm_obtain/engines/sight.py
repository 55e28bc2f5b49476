"""Whether a request's images can be seen: by its model, and by the engine that serves it."""

from __future__ import annotations

from vllm_obtain.catalogue import Model
from vllm_obtain.engines import choice
from vllm_obtain.engines.base import Adapter
from vllm_obtain.errors import EngineFailed, InvalidRequest
from vllm_obtain.settings import Settings

_CODE = "unsupported_content"


def check_model(model: Model, where: str) -> None:
    """Refuse an image for a model that reads text only.

    Args:
        model: whom the request is for.
        where: the field that has the image.

    Raises:
        InvalidRequest: it takes none.
    """
    if not model.sees:
        raise InvalidRequest(
            f"'{model.name}' reads text only; leave the image out, or name a model whose "
            f"'capabilities' at GET /v1/models have \"vision\": true. {model.blind}",
            param=where,
            code=_CODE,
        )


def check_engine(adapter: Adapter, model: Model, where: str) -> None:
    """Refuse an image where the model's engine takes none, though the model would.

    Raises:
        InvalidRequest: naming the engines of this machine that do.
    """
    if (why := adapter.blind(model)) is None:
        return
    others = choice.seers(model, adapter.settings)
    if others:
        way = (
            f"{' and '.join(others)} would take it: have the owner of the service move the model "
            f'there (POST /v1/models/load with "engine": "{others[0]}").'
        )
    else:
        way = "No engine of this machine takes it; leave the image out."
    raise InvalidRequest(
        f"'{model.name}' can see, but not where it is served now. {why} {way}",
        param=where,
        code=_CODE,
    )


def why_not(model: Model, settings: Settings) -> str | None:
    """Say why a model's requests may have no images; None when they may."""
    if not model.sees:
        return model.blind or "Its files cannot be read."
    try:
        return choice.ranked(model, settings)[0].adapter.blind(model)
    except EngineFailed:
        return "No engine here can load it."
