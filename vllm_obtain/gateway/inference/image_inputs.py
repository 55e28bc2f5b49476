"""Loads and checks the images of a request."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_obtain.engines.vision import check_model
from vllm_obtain.errors import UnsupportedParameter
from vllm_obtain.gateway.core.services import Services
from vllm_obtain.gateway.inference.context import ParameterPolicy, RequestContext
from vllm_obtain.images.load import InvalidImage, load
from vllm_obtain.models import Model
from vllm_obtain.protocol.engine_request import ImageInput
from vllm_obtain.protocol.messages import ImagePart


def load_images(
    services: Services,
    parts: Sequence[tuple[ImagePart, str]],
    model: Model,
    context: RequestContext,
) -> list[ImageInput]:
    """Load the images of a request.

    Args:
        services: the gateway's services.
        parts: its images, each with the field that has it; at least one.
        model: the model to use.
        context: of the request.

    Raises:
        InvalidRequest: the model is not a vision model, or an image cannot be loaded.
        ClientDisconnected: the client disconnected.
    """
    check_model(model, parts[0][1])
    for part, where in parts:
        _check_detail(part, where, context.policy)
    try:
        return load(parts, services.settings, context.cancel.attach)
    except InvalidImage:
        if context.cancel.is_cancelled:
            raise context.cancel.cause from None
        raise


def _check_detail(part: ImagePart, where: str, policy: ParameterPolicy) -> None:
    if part.image_url.detail == "auto":
        return
    name = f"{where}.detail"
    if policy.unknown is None:
        raise UnsupportedParameter(
            name, "The model sets the image resolution. Omit it, or send 'auto'."
        )
    policy.unknown.append(name)
