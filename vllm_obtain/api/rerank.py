"""POST /v1/rerank: documents by how near they are to a query, by the angle of their vectors."""

from __future__ import annotations

import secrets

from flask import Response

from vllm_obtain.api import pick
from vllm_obtain.api.embeddings import vectors
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import services
from vllm_obtain.protocol.vectors import (
    DocumentText,
    RankedBody,
    RerankBody,
    VectorUsage,
    parse_rerank,
)


def rerank() -> Response:
    """POST /v1/rerank."""
    made, asked = services(), parse_rerank(read_body())
    texts = asked.texts
    model = pick.embedder(made, asked.model)
    (query, *rows), tokens = vectors(made, model, [asked.query, *texts], param="documents")
    scores = [sum(a * b for a, b in zip(query, row, strict=True)) for row in rows]
    best = sorted(range(len(texts)), key=lambda index: -scores[index])[: asked.top_n]
    results = [RankedBody(index, scores[index]) for index in best]
    if asked.return_documents:
        for result in results:
            result.document = DocumentText(texts[result.index])
    body = RerankBody(
        id=f"rerank-{secrets.token_hex(12)}",
        model=asked.model or model.name,
        results=results,
        usage=VectorUsage(tokens, tokens),
    )
    return reply(body)
