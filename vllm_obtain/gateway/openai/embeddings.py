"""POST /v1/embeddings, and the functions behind all routes that need embeddings."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Iterator, Sequence

from flask import Response, g, request

from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.engines.embedding_limits import DEFAULT_CONTEXT, MAX_TEXTS
from vllm_obtain.engines.one_shot import Input, Vectors
from vllm_obtain.errors import EngineFailed, InvalidRequest
from vllm_obtain.gateway.core.cancellation import CancelToken
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import Services, current_services
from vllm_obtain.gateway.inference import model_lookup
from vllm_obtain.gateway.inference.context import parameter_policy
from vllm_obtain.gateway.inference.one_shot import EngineCall
from vllm_obtain.gateway.middleware import auth
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.models import Model
from vllm_obtain.protocol.embeddings import (
    EmbeddingBody,
    EmbeddingsBody,
    VectorUsage,
    parse_embedding,
)

# Vectors whose length is this close to 1 are not normalized again.
_LENGTH_TOLERANCE = 1e-3


def embeddings() -> Response:
    """POST /v1/embeddings."""
    services = current_services()
    request_body = parse_embedding(read_body(), parameter_policy().unknown)
    inputs = request_body.inputs
    model = model_lookup.embedding_model(services, request_body.model)
    rows, tokens = vectors(services, model, inputs, request_body.dimensions)
    encode = _base64 if request_body.encoding_format == "base64" else _numbers
    data = [EmbeddingBody(index, encode(row)) for index, row in enumerate(rows)]
    body = EmbeddingsBody(data, request_body.model or model.name, VectorUsage(tokens, tokens))
    return reply(body)


def embed(
    services: Services, model: Model, inputs: Sequence[Input], dimensions: int | None
) -> tuple[list[list[float]], int]:
    """Create L2-normalized embeddings of texts or lists of tokens.

    Args:
        services: the services of the worker.
        model: an embedding model.
        inputs: texts or lists of tokens, none of them empty.
        dimensions: dimensions to keep; None keeps all.

    Returns:
        The embeddings in the order of the inputs, and the total number of tokens.

    Raises:
        InvalidRequest: an input is too long, or the model has fewer dimensions.
        ServiceError: the engine failed, or the request was rejected.
        ClientDisconnected: the client of the current request disconnected.
    """
    rows, tokens = vectors(services, model, inputs, dimensions)
    return [row.tolist() for row in rows], tokens


def vectors(
    services: Services,
    model: Model,
    inputs: Sequence[Input],
    dimensions: int | None = None,
    param: str = "input",
) -> tuple[list[array[float]], int]:
    """Like `embed`, but return arrays; `param` is the name of the inputs in errors."""
    g.model = model.name
    rows: list[array[float]] = []
    tokens, cancel = 0, CancelToken()
    with services.in_flight.track(request.environ, cancel):
        call = EngineCall(
            services, model, cancel, _read, auth.quota(services.settings), g.trace.headers
        )
        g.call_stats = call.stats
        # A lease per batch, so that a request with thousands of texts does not block others.
        for batch in _batches(inputs):
            limit = _token_limit(model, batch)
            result = _embed_batch(call, batch, limit, param, patient=bool(rows))
            rows += result.rows
            tokens += result.prompt_tokens
    return [_normalized(row, dimensions) for row in rows], tokens


def _embed_batch(
    call: EngineCall[Vectors], batch: Sequence[Input], limit: int, param: str, patient: bool
) -> Vectors:
    def request_for(adapter: Adapter) -> tuple[str, object]:
        return adapter.embedding_path, adapter.embedding_body(batch)

    try:
        result = call(limit, request_for, batch, patient)
    except InvalidRequest as error:
        error.param = param
        raise
    if len(result.rows) != len(batch):
        raise EngineFailed("The engine did not return an embedding for each input. Try again.")
    return result


def _read(adapter: Adapter, response: bytes) -> tuple[Vectors, int]:
    result = adapter.read_vectors(response)
    return result, result.prompt_tokens


def _batches(inputs: Sequence[Input]) -> Iterator[Sequence[Input]]:
    for first in range(0, len(inputs), MAX_TEXTS):
        yield inputs[first : first + MAX_TEXTS]


def _token_limit(model: Model, batch: Sequence[Input]) -> int:
    """Return an upper bound of the longest input's tokens: a text has no more tokens than bytes."""
    longest = max(len(item.encode()) + 8 if isinstance(item, str) else len(item) for item in batch)
    return min(longest, model.context_length or DEFAULT_CONTEXT)


def _normalized(row: array[float], dimensions: int | None) -> array[float]:
    """Truncate an embedding to its first dimensions, and normalize it."""
    if dimensions is not None and dimensions > len(row):
        raise InvalidRequest(
            f"Invalid 'dimensions': embeddings of this model have {len(row)} dimensions. "
            "Set a lower value.",
            param="dimensions",
        )
    values = row if dimensions is None else row[:dimensions]
    length = math.hypot(*values)
    if abs(length - 1) < _LENGTH_TOLERANCE or not length:
        return values
    return array("f", [value / length for value in values])


def _numbers(row: array[float]) -> list[float]:
    return row.tolist()


def _base64(row: array[float]) -> str:
    """Encode an embedding for OpenAI's SDKs: little-endian 32-bit floats in base64."""
    if sys.byteorder == "big":
        row = row[:]
        row.byteswap()
    return base64.b64encode(row.tobytes()).decode()
