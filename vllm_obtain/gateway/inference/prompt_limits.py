"""Rejects prompts that cannot fit by their length, before the engine tokenizes them.

Tokenizing 60 MiB takes an engine a minute and gigabytes of memory.
"""

from __future__ import annotations

from flask import request

from vllm_obtain.config.model_settings import ModelSettings
from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import ContextLengthExceeded, InvalidRequest
from vllm_obtain.gateway.core.services import Services
from vllm_obtain.models import Model
from vllm_obtain.protocol.engine_request import EngineRequest
from vllm_obtain.protocol.requests import ChatRequest, InferenceRequest

# Upper bound of the mean characters per token over a full context. Prose has about 4, heavily
# indented source code about 20.
LONGEST = 64
# Tokens; the context length of a model whose files do not state one.
_UNKNOWN = 1 << 20
# Characters of a text that may always be tokenized.
_ANY_TEXT = 8 << 20


def context_limit(settings: Settings, model: Model, model_settings: ModelSettings) -> int:
    """The longest context, in tokens, that any engine may give a model."""
    configured = model_settings.context or 0
    trained = model.context_length or 0
    return max(configured, trained, settings.vllm_max_model_len) or _UNKNOWN


def check_messages(body: InferenceRequest, context: int) -> None:
    """Reject a chat that cannot fit into the model's context, before the chat template is applied.

    Args:
        body: the request.
        context: the model's context length in tokens.

    Raises:
        ContextLengthExceeded: the messages are too long.
    """
    if not isinstance(body, ChatRequest):
        return
    _check(len(body.messages), context, "messages")
    if (request.content_length or _ANY_TEXT) > context * LONGEST:
        texts = (message.content for message in body.messages)
        written = sum(len(text) for text in texts if isinstance(text, str))
        _check(written // LONGEST, context, "messages")


def check_prompt(engine_request: EngineRequest, context: int) -> None:
    """Reject a prompt that cannot fit into the model's context of `context` tokens.

    Raises:
        ContextLengthExceeded: the prompt is too long.
    """
    prompt = engine_request.prompt
    minimum = len(prompt) // LONGEST if isinstance(prompt, str) else len(prompt)
    param = "messages" if engine_request.is_chat else "prompt"
    _check(minimum, context, param)


def check_text(services: Services, model: Model, text: str) -> None:
    """Reject a text that is too long to tokenize in one request.

    Raises:
        InvalidRequest: the text is too long.
    """
    model_settings = services.model_settings.of(model.name)
    limit = max(_ANY_TEXT, context_limit(services.settings, model, model_settings) * LONGEST)
    if len(text) > limit:
        raise InvalidRequest(
            f"Invalid 'prompt': {len(text):,} characters exceed the limit of {limit:,} per "
            "tokenize request. Split it.",
            param="prompt",
        )


def _check(minimum: int, context: int, param: str) -> None:
    if minimum > context:
        error = ContextLengthExceeded(minimum, context, exact=False)
        error.param = param
        raise error
