"""Ollama's embeddings: thin routes over `embed`, which does the work for every API."""

from __future__ import annotations

import math
import time

import msgspec
from flask import Response, g

from vllm_obtain.api import embeddings as work
from vllm_obtain.api import pick
from vllm_obtain.api.ollama.answers import EmbedAnswer, EmbeddingAnswer
from vllm_obtain.api.ollama.models import context_of, find
from vllm_obtain.api.ollama.options import check_context, sampling
from vllm_obtain.api.ollama.requests import EmbedBody, EmbeddingsBody
from vllm_obtain.api.ollama.routes import leave_after, may_leave
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import Services, services
from vllm_obtain.catalogue import Model
from vllm_obtain.errors import UnsupportedParameter
from vllm_obtain.protocol.parse import decode

Vectors = list[list[float]]

_embed = msgspec.json.Decoder(EmbedBody)
_embeddings = msgspec.json.Decoder(EmbeddingsBody)


def embed() -> Response:
    """POST /api/embed: a vector of length 1 for each text."""
    began = time.monotonic()
    body = decode(read_body(), _embed)
    made = services()
    model = _model(made, body)
    inputs = [body.input] if isinstance(body.input, str) else body.input
    # `truncate` needs nothing: a text that is too long is refused, never cut without a word.
    vectors, tokens = _vectors(made, model, inputs, body.dimensions or None)
    took = int((time.monotonic() - began) * 1e9)
    answer = EmbedAnswer(body.model, [_unit(vector) for vector in vectors], took, tokens)
    return _kept(reply(answer), made, model, body)


def embeddings() -> Response:
    """POST /api/embeddings: the vector of one text, as the model gives it."""
    body = decode(read_body(), _embeddings)
    made = services()
    model = _model(made, body)
    vectors, _ = _vectors(made, model, [body.prompt] if body.prompt else [], None)
    return _kept(reply(EmbeddingAnswer(vectors[0] if vectors else [])), made, model, body)


def _model(made: Services, body: EmbedBody | EmbeddingsBody) -> Model:
    may_leave(body.keep_alive)
    model = pick.embedder(made, find(made, body.model).name)
    g.model = model.name
    for name in sampling(body.options):
        raise UnsupportedParameter(
            f"options.{name}", "Nothing is drawn for a vector; leave it out."
        )
    if body.options is not None and body.options.num_ctx is not None:
        check_context(body.options, context_of(made, model))
    return model


def _vectors(
    made: Services, model: Model, inputs: list[str], dimensions: int | None
) -> tuple[Vectors, int]:
    if not inputs:
        return [], 0
    return work.embed(made, model, inputs, dimensions)


def _unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector] if length else vector


def _kept(
    response: Response, made: Services, model: Model, body: EmbedBody | EmbeddingsBody
) -> Response:
    if body.keep_alive is not None:
        leave_after(response, made, model, body.keep_alive)
    return response
