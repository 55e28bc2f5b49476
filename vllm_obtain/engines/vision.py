"""Checks whether a model, and the engine that serves it, accept images."""

from __future__ import annotations

from vllm_obtain.config.settings import Settings
from vllm_obtain.engines import selection
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.errors import EngineFailed, InvalidRequest
from vllm_obtain.models import Model

_CODE = "unsupported_content"


def check_model(model: Model, where: str) -> None:
    """Reject an image for a model that accepts text only.

    Args:
        model: the requested model.
        where: the request field with the image.

    Raises:
        InvalidRequest: the model does not accept images.
    """
    if not model.supports_images:
        raise InvalidRequest(
            f"'{model.name}' does not accept images. Remove the image, or use a model whose "
            f"'capabilities' at GET /v1/models have \"vision\": true. {model.why_no_images}",
            param=where,
            code=_CODE,
        )


def check_engine(adapter: Adapter, model: Model, where: str) -> None:
    """Reject an image if the model's engine does not accept it, though the model would.

    Raises:
        InvalidRequest: the message names the engines on this machine that accept images.
    """
    if (why := adapter.why_no_images(model)) is None:
        return
    others = selection.vision_engines(model, adapter.settings)
    if others:
        fix = (
            f"{' and '.join(others)} would accept it: ask the operator to switch the model's "
            f'engine (POST /v1/models/load with "engine": "{others[0]}").'
        )
    else:
        fix = "No engine on this machine accepts it; remove the image."
    raise InvalidRequest(
        f"'{model.name}' is a vision model, but its current engine accepts no images. {why} {fix}",
        param=where,
        code=_CODE,
    )


def why_not(model: Model, settings: Settings) -> str | None:
    """Return why requests to a model must not have images, or None if they may."""
    if not model.supports_images:
        return model.why_no_images or "Its files cannot be read."
    try:
        return selection.rank_engines(model, settings)[0].adapter.why_no_images(model)
    except EngineFailed:
        return "No engine on this machine can load it."
