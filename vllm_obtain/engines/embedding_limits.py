"""Limits of engines with embedding models, which process whole texts and keep no KV cache."""

from __future__ import annotations

from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import EngineLimits
from vllm_obtain.models import Model

# Concurrent requests; each may have several texts, which the engine batches.
MAX_REQUESTS = 16
# Texts in one batch.
MAX_TEXTS = 32
DEFAULT_CONTEXT = 512
# An encoder processes a text in one step, so this is also the largest step.
MAX_CONTEXT = 8192


def limits(model: Model, settings: Settings) -> EngineLimits:
    """Return the limits of an engine with an embedding model: slots of full context length."""
    context = min(model.context_length or DEFAULT_CONTEXT, MAX_CONTEXT)
    slots = min(settings.max_concurrent_requests, MAX_REQUESTS)
    return EngineLimits(slots=slots, pool_tokens=slots * context, context=context)
