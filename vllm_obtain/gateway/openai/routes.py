"""Routes of the OpenAI API, and of reranking and tokenization."""

from __future__ import annotations

from vllm_obtain.gateway.core import error_codes as codes
from vllm_obtain.gateway.core.route import Route
from vllm_obtain.gateway.inference import handler
from vllm_obtain.gateway.openai import embeddings, rerank, tokenize
from vllm_obtain.protocol.embeddings import (
    EmbeddingRequest,
    EmbeddingsBody,
    RerankBody,
    RerankRequest,
)
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest
from vllm_obtain.protocol.responses import ChatChunk, ChatCompletion, TextCompletion
from vllm_obtain.protocol.tokenize import DetokenizeRequest, TextBody, TokenizeRequest, TokensBody

INFERENCE = [
    Route(
        "POST",
        "/v1/chat/completions",
        handler.chat,
        "Create a chat completion.",
        "Inference",
        response=ChatCompletion,
        body=ChatRequest,
        events=ChatChunk,
        errors=codes.GENERATE,
        example={
            "model": "smollm2-135m",
            "messages": [{"role": "user", "content": "Why is the sky blue?"}],
            "max_tokens": 60,
        },
        details="Loads the model if necessary. With `stream`, the response is a stream of "
        "server-sent events that ends with `[DONE]`.",
    ),
    Route(
        "POST",
        "/v1/completions",
        handler.completions,
        "Create a completion.",
        "Inference",
        response=TextCompletion,
        body=CompletionRequest,
        events=TextCompletion,
        errors=codes.GENERATE,
        example={"model": "smollm2-135m", "prompt": "The sky is blue because", "max_tokens": 40},
    ),
]

EMBEDDINGS = [
    Route(
        "POST",
        "/v1/embeddings",
        embeddings.embeddings,
        "Create embeddings (L2-normalized).",
        "Embeddings",
        response=EmbeddingsBody,
        body=EmbeddingRequest,
        errors=codes.ENGINE,
        example={"model": "all-minilm", "input": ["Why is the sky blue?"]},
        details="Up to 2,048 inputs.",
    ),
    *(
        Route(
            "POST",
            path,
            rerank.rerank,
            "Rerank documents by relevance to a query.",
            "Embeddings",
            response=RerankBody,
            body=RerankRequest,
            errors=codes.ENGINE,
            example={
                "model": "all-minilm",
                "query": "Why is the sky blue?",
                "documents": ["Air scatters blue light.", "Rome is in Italy."],
            },
            details="Compatible with Jina and Cohere. All three paths are equivalent.",
        )
        for path in ("/v1/rerank", "/v2/rerank", "/rerank")
    ),
]

TOKENS = [
    Route(
        "POST",
        "/tokenize",
        tokenize.tokenize,
        "Tokenize a prompt or messages.",
        "Tokens",
        response=TokensBody,
        body=TokenizeRequest,
        errors=(*codes.ENGINE, *codes.CHAT),
        example={"model": "smollm2-135m", "prompt": "Why is the sky blue?"},
        details="Requires either `prompt` or `messages`. Nothing is generated.",
    ),
    Route(
        "POST",
        "/detokenize",
        tokenize.detokenize,
        "Convert tokens to text.",
        "Tokens",
        response=TextBody,
        body=DetokenizeRequest,
        errors=codes.ENGINE,
        example={"model": "smollm2-135m", "tokens": [504, 6376, 314, 4461]},
    ),
]
