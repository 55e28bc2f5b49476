"""Handlers of chat and generate requests, and of `keep_alive`."""

from __future__ import annotations

import threading
from functools import partial

import msgspec
from flask import Response, g

from vllm_obtain.access.api_key import ADMIN
from vllm_obtain.control.messages import LoadModel, LoadStatus, UnloadModel
from vllm_obtain.errors import ServiceError
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import Services, current_services
from vllm_obtain.gateway.inference.context import parameter_policy
from vllm_obtain.gateway.inference.handler import handle
from vllm_obtain.gateway.middleware import auth
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.gateway.ollama import translate
from vllm_obtain.gateway.ollama.errors import NAMES
from vllm_obtain.gateway.ollama.models import context_of
from vllm_obtain.gateway.ollama.options import check_context
from vllm_obtain.gateway.ollama.render import ChatRenderer, GenerateRenderer, OllamaRenderer
from vllm_obtain.gateway.ollama.request_types import (
    ChatBody,
    GenerateBody,
    GenerationFields,
    KeepAlive,
)
from vllm_obtain.gateway.ollama.response_types import ChatAnswer, GenerateAnswer, MessageAnswer, now
from vllm_obtain.gateway.ollama.timings import TimingRecorder
from vllm_obtain.gateway.openai.render import Renderer
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models import Model
from vllm_obtain.protocol.parsing import decode, finite_number
from vllm_obtain.protocol.requests import InferenceRequest
from vllm_obtain.protocol.sampling_params import SamplingParams

log = get_logger("vllm_obtain.ollama")

RUNNING = "Ollama is running (its API is served by vllm-obtain)."

_chat = msgspec.json.Decoder(ChatBody, float_hook=finite_number)
_generate = msgspec.json.Decoder(GenerateBody, float_hook=finite_number)


def running() -> Response:
    """GET /, with which clients detect Ollama."""
    return Response(RUNNING, mimetype="text/plain")


def chat() -> Response:
    """POST /api/chat. Without messages it loads the model, or unloads it if `keep_alive` is 0."""
    ignored = _ignored()
    body = decode(read_body(), _chat, ignored)
    services = current_services()
    model = services.catalogue.find(body.model)
    if not body.messages:
        reason = _load_or_unload(services, model, body.keep_alive)
        message = MessageAnswer()
        return reply(
            ChatAnswer(
                model=body.model, created_at=now(), message=message, done=True, done_reason=reason
            )
        )
    return _respond(services, model, body, translate.chat(body, ignored), ChatRenderer)


def generate() -> Response:
    """POST /api/generate. Without a prompt it loads the model, or unloads it like `chat`."""
    ignored = _ignored()
    body = decode(read_body(), _generate, ignored)
    services = current_services()
    model = services.catalogue.find(body.model)
    if not body.prompt and not body.images:
        reason = _load_or_unload(services, model, body.keep_alive)
        return reply(
            GenerateAnswer(model=body.model, created_at=now(), done=True, done_reason=reason)
        )
    return _respond(services, model, body, translate.generate(body, ignored), GenerateRenderer)


def _ignored() -> list[str] | None:
    """Return the list for the names of ignored fields, which are Ollama's."""
    policy = parameter_policy()
    policy.names = NAMES
    return policy.unknown


def check_unload_permission(keep_alive: KeepAlive | None) -> None:
    """Require the scope `admin` if a request unloads the model."""
    if translate.seconds(keep_alive) == 0:
        auth.require(ADMIN, "Unloading a model ('keep_alive' 0)")


def unload_after(
    response: Response, services: Services, model: Model, keep_alive: KeepAlive
) -> None:
    """Unload a model after its response was sent, if `keep_alive` is 0.

    Args:
        response: the response.
        services: the services of the worker.
        model: the model of the response.
        keep_alive: value from the request. Values other than 0 have no effect, because models stay
            loaded until their memory is needed.
    """
    if translate.seconds(keep_alive) != 0:
        return

    def start() -> None:
        threading.Thread(target=_unload_quietly, args=(services, model), daemon=True).start()

    response.call_on_close(start)


def _respond(
    services: Services,
    model: Model,
    body: GenerationFields,
    request: InferenceRequest,
    kind: type[OllamaRenderer],
) -> Response:
    if body.options is not None and body.options.num_ctx is not None:
        check_context(body.options, context_of(services, model))
    request.model = model.name
    check_unload_permission(body.keep_alive)
    response = handle(request, partial(_renderer, body.model, kind))
    if body.keep_alive is not None:
        unload_after(response, services, model, body.keep_alive)
    return response


def _renderer(name: str, kind: type[OllamaRenderer], _: str, params: SamplingParams) -> Renderer:
    """Create a renderer that shows the model name of the client's request."""
    return kind(name, params, TimingRecorder(g.start_time, g.context.stats))


def _load_or_unload(services: Services, model: Model, keep_alive: KeepAlive | None) -> str:
    """Load a model, or unload it if `keep_alive` is 0. Return the `done_reason`."""
    g.model = model.name
    check_unload_permission(keep_alive)
    if translate.seconds(keep_alive) == 0:
        _unload(services, model)
        return "unload"
    services.supervisor.request(LoadModel(model.name, True, None), LoadStatus, _timeout(services))
    return "load"


def _unload(services: Services, model: Model) -> None:
    services.supervisor.request(UnloadModel(model.name), LoadStatus, _timeout(services))


def _unload_quietly(services: Services, model: Model) -> None:
    try:
        _unload(services, model)
    except ServiceError as error:
        log.warning("model unload failed", model=model.name, reason=error.message)


def _timeout(services: Services) -> float:
    # The supervisor enforces LOAD_TIMEOUT. Running requests take additional time to end.
    return services.settings.load_timeout + services.settings.request_timeout
