"""What a request is taken to say where it says nothing: the model's default sampling."""

from __future__ import annotations

from typing import Any

from vllm_obtain.catalogue import Model
from vllm_obtain.model_settings import ModelSettings
from vllm_obtain.protocol.requests import USUAL, CompletionRequest, InferenceFields

_DRAWING = ("temperature", "top_p", "top_k", "min_p")
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


def fill(asked: InferenceFields, model: Model, owner: ModelSettings) -> None:
    """Fill in what a request leaves open; the owner's word counts more than the model's files.

    Args:
        asked: changed in place. What it names stays, and so do the others of that kind: a request
            that names a temperature stands on its own.
        model: whom it asks.
        owner: what is set for that model.
    """
    values = {**dict(model.sampling), **owner.sampling.given}
    if owner.guesses_ahead and not values.keys() & {*_DRAWING}:
        # vLLM refuses min_p then, which nobody has named.
        values |= USUAL._replace(min_p=0.0)._asdict()
    if not values:
        return
    if not _names(asked, _DRAWING):
        penalties = () if _names(asked, _PENALTIES) else _PENALTIES
        for name in (*_DRAWING, *penalties):
            setattr(asked, name, values.get(name))
    if asked.token_limit is None:
        asked.max_tokens = values.get("max_tokens")


def described(model: Model, owner: ModelSettings) -> dict[str, Any]:
    """Say how a request that names nothing is answered."""
    request = CompletionRequest(prompt="")
    fill(request, model, owner)
    return {
        **request.sampling._asdict(),
        "repetition_penalty": request.repetition_penalty or 1.0,
        "presence_penalty": request.presence_penalty or 0.0,
        "frequency_penalty": request.frequency_penalty or 0.0,
        "max_tokens": request.max_tokens,
    }


def _names(asked: InferenceFields, names: tuple[str, ...]) -> bool:
    return any(getattr(asked, name) is not None for name in names)
