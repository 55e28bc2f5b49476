"""POST /v1/rerank: ranks documents by the cosine similarity of their embeddings to a query."""

from __future__ import annotations

import secrets

from flask import Response

from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import current_services
from vllm_obtain.gateway.inference import model_lookup
from vllm_obtain.gateway.inference.context import parameter_policy
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.gateway.openai.embeddings import vectors
from vllm_obtain.protocol.embeddings import (
    DocumentText,
    RankedBody,
    RerankBody,
    VectorUsage,
    parse_rerank,
)


def rerank() -> Response:
    """POST /v1/rerank."""
    services = current_services()
    request = parse_rerank(read_body(), parameter_policy().unknown)
    texts = request.texts
    model = model_lookup.embedding_model(services, request.model)
    (query, *rows), tokens = vectors(services, model, [request.query, *texts], param="documents")
    scores = [sum(a * b for a, b in zip(query, row, strict=True)) for row in rows]
    ranking = sorted(range(len(texts)), key=lambda index: -scores[index])[: request.top_n]
    results = [RankedBody(index, scores[index]) for index in ranking]
    if request.return_documents:
        for result in results:
            result.document = DocumentText(texts[result.index])
    body = RerankBody(
        id=f"rerank-{secrets.token_hex(12)}",
        model=request.model or model.name,
        results=results,
        usage=VectorUsage(tokens, tokens),
    )
    return reply(body)
