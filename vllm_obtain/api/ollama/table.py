"""Ollama's rows in the table of routes."""

from __future__ import annotations

from functools import partial

from vllm_obtain.api import error_codes as codes
from vllm_obtain.api.ollama import answers, embed, models, pulling, requests, routes
from vllm_obtain.api.route import Route

_HERE = {"model": "smollm2-135m"}
_row = partial(Route, tag="Ollama", error_body=answers.ErrorAnswer)
_streaming = partial(
    _row,
    events_type="application/x-ndjson",
    events_when="Lines of JSON, unless `stream` is false.",
    errors=(*codes.GENERATE, *codes.LEAVE),
)

ROUTES = [
    Route(
        "GET",
        "/",
        routes.running,
        "Say that a service is here.",
        "Ollama",
        answer="text/plain; charset=utf-8",
        errors=codes.USUAL,
    ),
    _streaming(
        "POST",
        "/api/chat",
        routes.chat,
        "Answer a conversation.",
        answer=answers.ChatAnswer,
        body=requests.ChatBody,
        events=answers.ChatAnswer,
        example=_HERE
        | {
            "messages": [{"role": "user", "content": "Why is the sky blue?"}],
            "options": {"num_predict": 60},
        },
        details="Without messages it loads the model, or with `keep_alive` 0 unloads it.",
    ),
    _streaming(
        "POST",
        "/api/generate",
        routes.generate,
        "Answer a prompt, or with `raw` go on with it.",
        answer=answers.GenerateAnswer,
        body=requests.GenerateBody,
        events=answers.GenerateAnswer,
        example=_HERE | {"prompt": "Why is the sky blue?", "options": {"num_predict": 60}},
        details="Without a prompt it loads the model, or with `keep_alive` 0 unloads it.",
    ),
    _row(
        "POST",
        "/api/embed",
        embed.embed,
        "Turn texts into vectors of length 1.",
        answer=answers.EmbedAnswer,
        body=requests.EmbedBody,
        errors=(*codes.ENGINE, *codes.LEAVE),
        example={"model": "all-minilm", "input": ["Why is the sky blue?"]},
        details="The model has to be an embedding model.",
    ),
    _row(
        "POST",
        "/api/embeddings",
        embed.embeddings,
        "Turn one text into a vector; the older form.",
        answer=answers.EmbeddingAnswer,
        body=requests.EmbeddingsBody,
        errors=(*codes.ENGINE, *codes.LEAVE),
        example={"model": "all-minilm", "prompt": "Why is the sky blue?"},
    ),
    _row(
        "GET",
        "/api/tags",
        models.tags,
        "List the models that can be used.",
        answer=answers.TagsAnswer,
        errors=codes.USUAL,
    ),
    _row(
        "POST",
        "/api/show",
        models.show,
        "Describe one model.",
        answer=answers.ModelAnswer,
        body=requests.ShowBody,
        errors=(*codes.USUAL, *codes.BODY, *codes.MODEL),
        example=_HERE,
    ),
    _row(
        "POST",
        "/api/pull",
        pulling.pull,
        "Fetch a model, or the present version of one that was fetched.",
        answer=answers.PullAnswer,
        body=requests.PullBody,
        events=answers.PullAnswer,
        events_type="application/x-ndjson",
        events_when="Lines of JSON, unless `stream` is false.",
        errors=(
            *codes.USUAL,
            *codes.BODY,
            *codes.SUPERVISOR,
            *codes.PULL,
            *codes.UPDATE,
            "unsupported_parameter",
        ),
        example={"model": "qwen3-8b"},
        access="admin",
        details="By a name that this service knows, `hf.co/owner/repository` or "
        "`hf.co/owner/repository:Q5_K_M`, or as `POST /v1/models/pull` takes it.",
    ),
    _row(
        "DELETE",
        "/api/delete",
        pulling.delete,
        "Remove a model from the disk.",
        answer="text/plain; charset=utf-8",
        body=requests.DeleteBody,
        errors=(
            *codes.USUAL,
            *codes.BODY,
            *codes.SUPERVISOR,
            *codes.MODEL,
            "model_in_use",
            "model_not_removable",
            "fetch_failed",
        ),
        example=_HERE,
        access="admin",
        details="Never one that is loaded.",
    ),
    _row(
        "GET",
        "/api/ps",
        models.ps,
        "List the models that are loaded.",
        answer=answers.RunningAnswer,
        errors=(*codes.USUAL, *codes.SUPERVISOR),
    ),
    _row(
        "GET",
        "/api/version",
        models.version,
        "The version of Ollama whose API this is.",
        answer=answers.VersionAnswer,
        errors=codes.USUAL,
    ),
]
