"""Engine requests from the bodies of clients."""

from __future__ import annotations

from typing import Any

from vllm_obtain.protocol.engine_request import EngineRequest
from vllm_obtain.protocol.requests import ChatRequest, InferenceRequest, used_parameters
from vllm_obtain.protocol.sampling_params import SamplingParams


def params(request: InferenceRequest) -> SamplingParams:
    """The sampling parameters of a request, for a model without defaults."""
    return SamplingParams.resolve(used_parameters(request))


def engine_request(
    request: InferenceRequest, prompt: str | list[int] | list[int | str], **fields: Any
) -> EngineRequest:
    """The request to an engine, with a prompt as if it was rendered from the request."""
    is_chat = isinstance(request, ChatRequest)
    return EngineRequest(prompt, params(request), is_chat, **fields)
