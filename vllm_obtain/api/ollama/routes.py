"""Ollama's routes that make something: chat and generate, and what `keep_alive` does around them.

Its errors have its shape on every path below `/api/`, also on those that are no route.
"""

from __future__ import annotations

import threading
from functools import partial

import msgspec
from flask import Response, g, request

from vllm_obtain.access.key import ADMIN
from vllm_obtain.api import entry
from vllm_obtain.api.inference import answer
from vllm_obtain.api.ollama import translate
from vllm_obtain.api.ollama.answers import ChatAnswer, GenerateAnswer, MessageAnswer, now
from vllm_obtain.api.ollama.errors import error_body
from vllm_obtain.api.ollama.models import context_of, find
from vllm_obtain.api.ollama.options import check_context
from vllm_obtain.api.ollama.render import ChatRenderer, GenerateRenderer, OllamaRenderer
from vllm_obtain.api.ollama.requests import ChatBody, GenerateBody, GenerationFields, KeepAlive
from vllm_obtain.api.ollama.watch import Watch
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.render import Renderer
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import Services, services
from vllm_obtain.catalogue import Model
from vllm_obtain.errors import ServiceError
from vllm_obtain.log import get_logger
from vllm_obtain.messages import Done, Load, Unload
from vllm_obtain.protocol.parse import decode
from vllm_obtain.protocol.requests import InferenceRequest

log = get_logger("vllm_obtain.ollama")

RUNNING = "Ollama is running: its API is served here by vllm-obtain."

_chat = msgspec.json.Decoder(ChatBody)
_generate = msgspec.json.Decoder(GenerateBody)


def dialect() -> None:
    """Before each request: have errors below `/api/` told as Ollama tells them."""
    if request.path.startswith("/api/"):
        g.error_body = error_body


def running() -> Response:
    """GET /: what clients look at to see whether an Ollama is there."""
    return Response(RUNNING, mimetype="text/plain")


def chat() -> Response:
    """POST /api/chat. Without messages it loads the model, or unloads it with `keep_alive` 0."""
    body = decode(read_body(), _chat)
    made = services()
    model = find(made, body.model)
    if not body.messages:
        reason = _bring_or_take(made, model, body.keep_alive)
        message = MessageAnswer()
        return reply(
            ChatAnswer(
                model=body.model, created_at=now(), message=message, done=True, done_reason=reason
            )
        )
    return _made(made, model, body, translate.chat(body), ChatRenderer)


def generate() -> Response:
    """POST /api/generate. Without a prompt it loads the model, or unloads it like `chat`."""
    body = decode(read_body(), _generate)
    made = services()
    model = find(made, body.model)
    if not body.prompt and not body.images:
        reason = _bring_or_take(made, model, body.keep_alive)
        return reply(
            GenerateAnswer(model=body.model, created_at=now(), done=True, done_reason=reason)
        )
    return _made(made, model, body, translate.generate(body), GenerateRenderer)


def may_leave(keep_alive: KeepAlive | None) -> None:
    """Refuse a wish to unload a model that is not the caller's to have."""
    if translate.seconds(keep_alive) == 0:
        entry.require(ADMIN, "Unloading a model ('keep_alive' 0)")


def leave_after(response: Response, made: Services, model: Model, keep_alive: KeepAlive) -> None:
    """Unload a model when an answer is out, if its client wants that.

    Args:
        response: the answer.
        made: the services.
        model: who gave it.
        keep_alive: as the client sent it. Only 0 does anything: models stay for as long as there
            is room, which is any other duration at least.
    """
    if translate.seconds(keep_alive) != 0:
        return

    def begin() -> None:
        threading.Thread(target=_leave, args=(made, model), daemon=True).start()

    response.call_on_close(begin)


def _made(
    made: Services,
    model: Model,
    body: GenerationFields,
    asked: InferenceRequest,
    kind: type[OllamaRenderer],
) -> Response:
    if body.options is not None and body.options.num_ctx is not None:
        check_context(body.options, context_of(made, model))
    asked.model = model.name
    may_leave(body.keep_alive)
    response = answer(asked, partial(_renderer, body.model, kind))
    if body.keep_alive is not None:
        leave_after(response, made, model, body.keep_alive)
    return response


def _renderer(
    name: str,
    kind: type[OllamaRenderer],
    _: str,
    asked: InferenceRequest,
) -> Renderer:
    """Make a renderer that calls the model what the client called it."""
    return kind(name, asked, Watch(g.began, g.get("tally")))


def _bring_or_take(made: Services, model: Model, keep_alive: KeepAlive | None) -> str:
    """Load a model, or unload it; says which."""
    g.model = model.name
    may_leave(keep_alive)
    if translate.seconds(keep_alive) == 0:
        _take(made, model)
        return "unload"
    made.supervisor.ask(Load(model.name, True, None), Done, _patience(made))
    return "load"


def _take(made: Services, model: Model) -> None:
    made.supervisor.ask(Unload(model.name), Done, _patience(made))


def _leave(made: Services, model: Model) -> None:
    try:
        _take(made, model)
    except ServiceError as error:
        log.warning("not unloaded", model=model.name, reason=error.message)


def _patience(made: Services) -> float:
    # The supervisor keeps LOAD_TIMEOUT; waiting for requests to end comes on top.
    return made.settings.load_timeout + made.settings.request_timeout
