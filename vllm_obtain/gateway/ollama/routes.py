"""Routes of the Ollama API."""

from __future__ import annotations

from functools import partial

from vllm_obtain.gateway.core import error_codes as codes
from vllm_obtain.gateway.core.route import Route
from vllm_obtain.gateway.ollama import (
    embeddings,
    handlers,
    models,
    pull,
    request_types,
    response_types,
)

_HERE = {"model": "smollm2-135m"}
_row = partial(Route, tag="Ollama", error_body=response_types.ErrorAnswer)
_streaming = partial(
    _row,
    events_type="application/x-ndjson",
    events_when="JSON lines, unless `stream` is false.",
    errors=(*codes.GENERATE, *codes.SCOPE),
)

ROUTES = [
    Route(
        "GET",
        "/",
        handlers.running,
        "Show that the service is running.",
        "Ollama",
        response="text/plain; charset=utf-8",
        errors=codes.COMMON,
    ),
    _streaming(
        "POST",
        "/api/chat",
        handlers.chat,
        "Create a chat completion.",
        response=response_types.ChatAnswer,
        body=request_types.ChatBody,
        events=response_types.ChatAnswer,
        example=_HERE
        | {
            "messages": [{"role": "user", "content": "Why is the sky blue?"}],
            "options": {"num_predict": 60},
        },
        details="Without messages it loads the model, or unloads it if `keep_alive` is 0.",
    ),
    _streaming(
        "POST",
        "/api/generate",
        handlers.generate,
        "Create a completion, with the chat template unless `raw` is true.",
        response=response_types.GenerateAnswer,
        body=request_types.GenerateBody,
        events=response_types.GenerateAnswer,
        example=_HERE | {"prompt": "Why is the sky blue?", "options": {"num_predict": 60}},
        details="Without a prompt it loads the model, or unloads it if `keep_alive` is 0.",
    ),
    _row(
        "POST",
        "/api/embed",
        embeddings.embed,
        "Create embeddings (L2-normalized).",
        response=response_types.EmbedAnswer,
        body=request_types.EmbedBody,
        errors=(*codes.ENGINE, *codes.SCOPE),
        example={"model": "all-minilm", "input": ["Why is the sky blue?"]},
        details="Requires an embedding model.",
    ),
    _row(
        "POST",
        "/api/embeddings",
        embeddings.embeddings,
        "Create one embedding (older API).",
        response=response_types.EmbeddingAnswer,
        body=request_types.EmbeddingsBody,
        errors=(*codes.ENGINE, *codes.SCOPE),
        example={"model": "all-minilm", "prompt": "Why is the sky blue?"},
    ),
    _row(
        "GET",
        "/api/tags",
        models.tags,
        "List loadable models.",
        response=response_types.TagsAnswer,
        errors=codes.COMMON,
    ),
    _row(
        "POST",
        "/api/show",
        models.show,
        "Show a model.",
        response=response_types.ModelAnswer,
        body=request_types.ShowBody,
        errors=(*codes.COMMON, *codes.BODY, *codes.MODEL),
        example=_HERE,
    ),
    _row(
        "POST",
        "/api/pull",
        pull.pull,
        "Download a model, or update a downloaded one.",
        response=response_types.PullAnswer,
        body=request_types.PullBody,
        events=response_types.PullAnswer,
        events_type="application/x-ndjson",
        events_when="JSON lines, unless `stream` is false.",
        errors=(
            *codes.COMMON,
            *codes.BODY,
            *codes.SUPERVISOR,
            *codes.PULL,
            *codes.UPDATE,
            "unsupported_parameter",
        ),
        example={"model": "qwen3-8b"},
        access="admin",
        details="`model` is a catalog name, `hf.co/owner/repository`, "
        "`hf.co/owner/repository:Q5_K_M`, or any value that `POST /v1/models/pull` accepts.",
    ),
    _row(
        "DELETE",
        "/api/delete",
        pull.delete,
        "Delete a model.",
        response="text/plain; charset=utf-8",
        body=request_types.DeleteBody,
        errors=(
            *codes.COMMON,
            *codes.BODY,
            *codes.SUPERVISOR,
            *codes.MODEL,
            "model_in_use",
            "model_not_removable",
            "fetch_failed",
        ),
        example=_HERE,
        access="admin",
        details="A loaded model cannot be deleted.",
    ),
    _row(
        "GET",
        "/api/ps",
        models.ps,
        "List loaded models.",
        response=response_types.RunningAnswer,
        errors=(*codes.COMMON, *codes.SUPERVISOR),
    ),
    _row(
        "GET",
        "/api/version",
        models.version,
        "Show the version of Ollama whose API is implemented.",
        response=response_types.VersionAnswer,
        errors=codes.COMMON,
    ),
]
