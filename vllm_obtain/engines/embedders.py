"""How engines of embedding models are sized: they read whole texts and keep nothing of them."""

from __future__ import annotations

from vllm_obtain.catalogue import Model
from vllm_obtain.messages import Limits
from vllm_obtain.settings import Settings

# Requests at once; each may bring several texts, which the engine takes as it can.
MAX_REQUESTS = 16
# Texts that go through a model together.
MAX_TEXTS = 32
DEFAULT_CONTEXT = 512
# A text goes through an encoder in one piece, so this is also the largest step.
MAX_CONTEXT = 8192


def limits(model: Model, settings: Settings) -> Limits:
    """Say what the engine of an embedding model holds: so many requests of any length it takes."""
    context = min(model.context_length or DEFAULT_CONTEXT, MAX_CONTEXT)
    slots = min(settings.max_concurrent_requests, MAX_REQUESTS)
    return Limits(slots=slots, pool_tokens=slots * context, context=context)
