"""Prompts that are hopelessly too long, told without the engine.

An engine makes tokens of the whole prompt before it knows: of 60 MiB for a minute, in gigabytes.
"""

from __future__ import annotations

from collections.abc import Sized

from flask import request

from vllm_obtain.api.services import Services
from vllm_obtain.catalogue import Model
from vllm_obtain.errors import ContextLengthExceeded, InvalidRequest
from vllm_obtain.protocol.requests import ChatRequest, InferenceRequest

# Characters that a token has at most, on an average over a whole context. Text has some four, and
# source code that is mostly indented some twenty.
LONGEST = 64
# Tokens, where nobody says how many a model was made for.
_UNKNOWN = 1 << 20
# Characters that are made tokens of in any case when somebody asks for those.
_ANY_TEXT = 8 << 20


def check_messages(made: Services, model: Model, asked: InferenceRequest) -> None:
    """Refuse a chat that cannot fit into the model's context, before it is written as a prompt.

    Raises:
        ContextLengthExceeded: it cannot.
    """
    if not isinstance(asked, ChatRequest):
        return
    context = _context(made, model)
    _check(len(asked.messages), context, "messages")
    if (request.content_length or _ANY_TEXT) > context * LONGEST:
        texts = (each.content for each in asked.messages)
        written = sum(len(text) for text in texts if isinstance(text, str))
        _check(written // LONGEST, context, "messages")


def check_prompt(made: Services, model: Model, prompt: Sized, param: str) -> None:
    """Refuse a prompt that cannot fit into the model's context.

    Args:
        made: the services.
        model: that is asked.
        prompt: a text, or token ids.
        param: the field that is at fault.

    Raises:
        ContextLengthExceeded: it cannot.
    """
    least = len(prompt) // LONGEST if isinstance(prompt, str) else len(prompt)
    _check(least, _context(made, model), param)


def check_text(made: Services, model: Model, text: str) -> None:
    """Refuse a text that is too long to make tokens of at once.

    Raises:
        InvalidRequest: it is.
    """
    most = max(_ANY_TEXT, _context(made, model) * LONGEST)
    if len(text) > most:
        raise InvalidRequest(
            f"Invalid 'prompt': it has {len(text):,} characters, and {most:,} are made tokens of "
            "at once. Send it in pieces.",
            param="prompt",
        )


def _context(made: Services, model: Model) -> int:
    """The longest context that any engine may give a model."""
    owner = made.model_settings.of(model.name).context or 0
    known = model.context_length or 0
    return max(owner, known, made.settings.vllm_max_model_len) or _UNKNOWN


def _check(least: int, context: int, param: str) -> None:
    if least > context:
        error = ContextLengthExceeded(least, context, exact=False)
        error.param = param
        raise error
