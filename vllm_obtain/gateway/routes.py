"""All routes. Each API's own are in `openai/routes.py`, `anthropic/routes.py` and so on."""

from __future__ import annotations

from functools import cache

from flask import Response

from vllm_obtain.gateway.admin import routes as admin
from vllm_obtain.gateway.anthropic import routes as anthropic
from vllm_obtain.gateway.apidocs import openapi, static_pages
from vllm_obtain.gateway.core import error_codes as codes
from vllm_obtain.gateway.core.route import Route
from vllm_obtain.gateway.core.services import current_services
from vllm_obtain.gateway.ollama import routes as ollama
from vllm_obtain.gateway.openai import routes as openai
from vllm_obtain.gateway.responses import routes as responses
from vllm_obtain.gevent_compat import run_in_threadpool

TAGS = {
    "Inference": "Chat completions and completions (OpenAI API).",
    "Responses": "Stored, continuable responses (OpenAI Responses API).",
    "Embeddings": "Embeddings and reranking, for embedding models.",
    "Tokens": "Tokenization (vLLM API).",
    "Models": "List, download, update, load, switch and unload models.",
    "Anthropic": "The Anthropic Messages API, with errors in its format.",
    "Ollama": "The Ollama API, with errors in its format.",
    "Service": "Liveness, readiness, status, metrics and API keys.",
    "Description": "This API description.",
}


@cache
def _render_openapi(prefix: str) -> bytes:
    # Cached per process: generating the description takes about 20 ms.
    return openapi.describe(ROUTES, TAGS, prefix)


def description() -> Response:
    """GET /openapi.json."""
    prefix = current_services().settings.url_prefix
    return static_pages.cacheable(
        run_in_threadpool(lambda: _render_openapi(prefix)), "application/json"
    )


DESCRIPTION = [
    Route(
        "GET",
        "/openapi.json",
        description,
        "OpenAPI 3.1 description.",
        "Description",
        response=dict,
        errors=codes.COMMON,
        cacheable=True,
        access="docs",
    ),
    Route(
        "GET",
        "/docs",
        static_pages.docs,
        "API documentation as a web page.",
        "Description",
        response="text/html; charset=utf-8",
        errors=codes.COMMON,
        cacheable=True,
        access="docs",
    ),
    Route(
        "GET",
        "/docs/<file>",
        static_pages.docs_file,
        "Script and style sheet of the documentation page.",
        "Description",
        response="*/*",
        errors=(*codes.COMMON, "not_found"),
        path_parameters={"file": "`style.css` or `script.js`."},
        cacheable=True,
        access="docs",
    ),
]

ROUTES = [
    *openai.INFERENCE,
    *responses.ROUTES,
    *openai.EMBEDDINGS,
    *openai.TOKENS,
    *admin.MODELS,
    *anthropic.ROUTES,
    *ollama.ROUTES,
    *admin.SERVICE,
    *DESCRIPTION,
]
