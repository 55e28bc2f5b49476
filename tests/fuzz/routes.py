"""What the routes that work with a model have in common."""

from __future__ import annotations

# The field of each route that bounds its answer; it is set where it is not at fault.
LIMITS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
# Routes whose `options` have that field.
OPTIONS = ("/api/chat", "/api/generate")
VECTORS = ("/v1/embeddings", "/v1/rerank", "/v2/rerank", "/rerank", "/api/embed", "/api/embeddings")
