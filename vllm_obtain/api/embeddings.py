"""POST /v1/embeddings, and vectors for whoever else needs them."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Iterator, Sequence

from flask import Response, g, request

from vllm_obtain.api import entry, pick
from vllm_obtain.api.ask import Ask
from vllm_obtain.api.cancel import Cancel
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import Services, services
from vllm_obtain.catalogue import Model
from vllm_obtain.engines.base import Adapter
from vllm_obtain.engines.embedders import DEFAULT_CONTEXT, MAX_TEXTS
from vllm_obtain.engines.plain import Input, Vectors
from vllm_obtain.errors import EngineFailed, InvalidRequest
from vllm_obtain.protocol.vectors import (
    EmbeddingBody,
    EmbeddingsBody,
    VectorUsage,
    parse_embedding,
)

# What differs from 1 by less is a rounding of its own.
_LENGTH_ERROR = 1e-3


def embeddings() -> Response:
    """POST /v1/embeddings."""
    made, asked = services(), parse_embedding(read_body())
    inputs = asked.inputs
    model = pick.embedder(made, asked.model)
    rows, tokens = vectors(made, model, inputs, asked.dimensions)
    shape = _base64 if asked.encoding_format == "base64" else _numbers
    data = [EmbeddingBody(index, shape(row)) for index, row in enumerate(rows)]
    body = EmbeddingsBody(data, asked.model or model.name, VectorUsage(tokens, tokens))
    return reply(body)


def embed(
    made: Services, model: Model, inputs: Sequence[Input], dimensions: int | None
) -> tuple[list[list[float]], int]:
    """Turn texts, or lists of tokens, into vectors of length 1.

    Args:
        made: the services.
        model: an embedding model.
        inputs: none of them empty.
        dimensions: how many numbers of each vector are wanted; None for all.

    Returns:
        The vectors in order, and how many tokens all inputs had.

    Raises:
        InvalidRequest: an input is too long, or the model has fewer dimensions.
        ServiceError: it cannot be done, or broke off.
        ClientGone: the client of the request that is being handled went away.
    """
    rows, tokens = vectors(made, model, inputs, dimensions)
    return [row.tolist() for row in rows], tokens


def vectors(
    made: Services,
    model: Model,
    inputs: Sequence[Input],
    dimensions: int | None = None,
    param: str = "input",
) -> tuple[list[array[float]], int]:
    """As `embed`, in a form that is small; `param` is what an error calls the inputs."""
    g.model = model.name
    rows: list[array[float]] = []
    tokens, cancel = 0, Cancel()
    with made.working.on(request.environ, cancel):
        ask = Ask(made, model, cancel, _read, entry.account(), g.trace.headers)
        g.asked = ask.tally
        # A lease for a few texts at a time: somebody with thousands is not served before others.
        for some in _pieces(inputs):
            found = _ask_for(ask, some, _bound(model, some), param, patient=bool(rows))
            rows += found.rows
            tokens += found.prompt_tokens
    return [_shaped(row, dimensions) for row in rows], tokens


def _ask_for(
    ask: Ask[Vectors], some: Sequence[Input], bound: int, param: str, patient: bool
) -> Vectors:
    def question(adapter: Adapter) -> tuple[str, object]:
        return adapter.embedding_path, adapter.embedding_body(some)

    try:
        found = ask(bound, question, patient)
    except InvalidRequest as error:
        error.param = param
        raise
    if len(found.rows) != len(some):
        raise EngineFailed("The engine did not give a vector for each text. Try again.")
    return found


def _read(adapter: Adapter, answer: bytes) -> tuple[Vectors, int]:
    found = adapter.read_vectors(answer)
    return found, found.prompt_tokens


def _pieces(inputs: Sequence[Input]) -> Iterator[Sequence[Input]]:
    for first in range(0, len(inputs), MAX_TEXTS):
        yield inputs[first : first + MAX_TEXTS]


def _bound(model: Model, some: Sequence[Input]) -> int:
    """Bound the tokens of the longest input: a tokenizer never makes more of them than bytes."""
    longest = max(len(each.encode()) + 8 if isinstance(each, str) else len(each) for each in some)
    return min(longest, model.context_length or DEFAULT_CONTEXT)


def _shaped(row: array[float], dimensions: int | None) -> array[float]:
    """Keep the first numbers of a vector, and bring it to length 1."""
    if dimensions is not None and dimensions > len(row):
        raise InvalidRequest(
            f"Invalid 'dimensions': this model's vectors have {len(row)}. Ask for fewer.",
            param="dimensions",
        )
    kept = row if dimensions is None else row[:dimensions]
    length = math.hypot(*kept)
    if abs(length - 1) < _LENGTH_ERROR or not length:
        return kept
    return array("f", [value / length for value in kept])


def _numbers(row: array[float]) -> list[float]:
    return row.tolist()


def _base64(row: array[float]) -> str:
    """The vector as OpenAI's SDKs read it: floats of 32 bits, the lowest byte first."""
    if sys.byteorder == "big":
        row = row[:]
        row.byteswap()
    return base64.b64encode(row.tobytes()).decode()
