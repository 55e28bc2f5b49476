"""The images of a request, ready for an engine: everything that can be refused of them is."""

from __future__ import annotations

from vllm_obtain.api.cancel import Cancel
from vllm_obtain.api.leniency import Leniency
from vllm_obtain.api.services import Services
from vllm_obtain.catalogue import Model
from vllm_obtain.engines.sight import check_model
from vllm_obtain.errors import UnsupportedParameter
from vllm_obtain.images.load import InvalidImage, load
from vllm_obtain.protocol.conversation import ImagePart, images_in
from vllm_obtain.protocol.requests import ChatRequest, InferenceRequest
from vllm_obtain.protocol.task import Image


def seen(
    made: Services, asked: InferenceRequest, model: Model, cancel: Cancel, leniency: Leniency
) -> list[Image]:
    """Get the images that a request holds.

    Args:
        made: the services.
        asked: what the client wants.
        model: whom it is for.
        cancel: fires when nobody wants the answer any more.
        leniency: what becomes of a wish that cannot be honoured.

    Raises:
        InvalidRequest: the model reads text only, or an image cannot be had.
        ClientGone: the client went away meanwhile.
    """
    parts = images_in(asked.messages) if isinstance(asked, ChatRequest) else []
    if not parts:
        return []
    check_model(model, parts[0][1])
    for part, where in parts:
        _check_detail(part, where, leniency)
    try:
        return load(parts, made.settings, cancel.attached)
    except InvalidImage:
        if cancel.gone:
            raise cancel.cause from None
        raise


def _check_detail(part: ImagePart, where: str, leniency: Leniency) -> None:
    if part.image_url.detail == "auto":
        return
    name = f"{where}.detail"
    if leniency.strict:
        raise UnsupportedParameter(
            name, "A model looks at images in its own way here; leave it out, or send 'auto'."
        )
    leniency.ignored.append(name)
