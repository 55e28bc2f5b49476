"""Embedding routes of the Ollama API, based on the embeddings of the OpenAI API."""

from __future__ import annotations

import math
import time

import msgspec
from flask import Response, g

from vllm_obtain.errors import UnsupportedParameter
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import Services, current_services
from vllm_obtain.gateway.inference import model_lookup
from vllm_obtain.gateway.inference.context import parameter_policy
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.gateway.ollama.handlers import check_unload_permission, unload_after
from vllm_obtain.gateway.ollama.models import context_of
from vllm_obtain.gateway.ollama.options import check_context, sampling
from vllm_obtain.gateway.ollama.request_types import EmbedBody, EmbeddingsBody
from vllm_obtain.gateway.ollama.response_types import EmbedAnswer, EmbeddingAnswer
from vllm_obtain.gateway.openai import embeddings as openai_embeddings
from vllm_obtain.models import Model
from vllm_obtain.protocol.parsing import decode

Vectors = list[list[float]]

_embed = msgspec.json.Decoder(EmbedBody)
_embeddings = msgspec.json.Decoder(EmbeddingsBody)


def embed() -> Response:
    """POST /api/embed: a normalized embedding for each text."""
    start_time = time.monotonic()
    body = decode(read_body(), _embed, parameter_policy().unknown)
    services = current_services()
    model = _model(services, body)
    inputs = [body.input] if isinstance(body.input, str) else body.input
    # `truncate` has no effect: a text that is too long is rejected, never truncated.
    vectors, tokens = _vectors(services, model, inputs, body.dimensions or None)
    duration = int((time.monotonic() - start_time) * 1e9)
    response = EmbedAnswer(body.model, [_unit(vector) for vector in vectors], duration, tokens)
    return _apply_keep_alive(reply(response), services, model, body)


def embeddings() -> Response:
    """POST /api/embeddings: the embedding of one text."""
    body = decode(read_body(), _embeddings, parameter_policy().unknown)
    services = current_services()
    model = _model(services, body)
    vectors, _ = _vectors(services, model, [body.prompt] if body.prompt else [], None)
    response = EmbeddingAnswer(vectors[0] if vectors else [])
    return _apply_keep_alive(reply(response), services, model, body)


def _model(services: Services, body: EmbedBody | EmbeddingsBody) -> Model:
    check_unload_permission(body.keep_alive)
    model = model_lookup.embedding_model(services, body.model)
    g.model = model.name
    for name in sampling(body.options, parameter_policy().unknown):
        raise UnsupportedParameter(
            f"options.{name}", "Embeddings are not sampled; remove the option."
        )
    if body.options is not None and body.options.num_ctx is not None:
        check_context(body.options, context_of(services, model))
    return model


def _vectors(
    services: Services, model: Model, inputs: list[str], dimensions: int | None
) -> tuple[Vectors, int]:
    if not inputs:
        return [], 0
    return openai_embeddings.embed(services, model, inputs, dimensions)


def _unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector] if length else vector


def _apply_keep_alive(
    response: Response, services: Services, model: Model, body: EmbedBody | EmbeddingsBody
) -> Response:
    if body.keep_alive is not None:
        unload_after(response, services, model, body.keep_alive)
    return response
