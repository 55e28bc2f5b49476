"""The path of an inference request, the same for all APIs: read `handle` from top to bottom."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import flask
from flask import Response, g
from msgspec import Struct

from vllm_obtain.chat.chat_format import chat_format
from vllm_obtain.chat.prepare import PreparedRequest, prepare_chat, prepare_completion
from vllm_obtain.chat.sandbox import CALLER, Work
from vllm_obtain.errors import (
    InvalidRequest,
    ServiceError,
    UnsupportedParameter,
)
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import Services, current_services
from vllm_obtain.gateway.inference import model_lookup, prompt_limits
from vllm_obtain.gateway.inference.context import (
    ADVISORY,
    RequestContext,
    identify,
    new_context,
    parameter_policy,
)
from vllm_obtain.gateway.inference.generation import start
from vllm_obtain.gateway.inference.image_inputs import load_images
from vllm_obtain.gateway.inference.retry import Attempt, RetryPolicy
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.gateway.openai import tokenize
from vllm_obtain.gateway.openai.render import ChatRenderer, Renderer, TextRenderer
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models import Model
from vllm_obtain.models.chat_tokens import chat_tokens
from vllm_obtain.protocol.engine_request import ImageInput
from vllm_obtain.protocol.messages import images_in
from vllm_obtain.protocol.parsing import parse_chat, parse_completion
from vllm_obtain.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    InferenceRequest,
    used_parameters,
)
from vllm_obtain.protocol.sampling_params import SamplingParams

log = get_logger("vllm_obtain.generate")

# Makes the renderer of a response from the model's name and the sampling parameters.
RendererType = Callable[[str, SamplingParams], Renderer]

# OpenAI's default of `max_tokens` at /v1/completions.
_COMPLETION_TOKENS = 16
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def chat() -> Response:
    """POST /v1/chat/completions."""
    request = parse_chat(read_body(), parameter_policy().unknown)
    return handle(request, partial(ChatRenderer, stream_options=request.stream_options))


def completions() -> Response:
    """POST /v1/completions."""
    request = parse_completion(read_body(), parameter_policy().unknown)
    echo = _echoed_prompt(request) if request.echo else ""
    render = partial(TextRenderer, stream_options=request.stream_options, echo=echo)
    return handle(request, render, _COMPLETION_TOKENS)


def _echoed_prompt(request: CompletionRequest) -> str:
    if request.logprobs is not None:
        raise UnsupportedParameter(
            "echo", "With 'logprobs' it needs those of the prompt, which are not computed."
        )
    if isinstance(request.prompt, str):
        return request.prompt
    services = current_services()
    model = model_lookup.chat_model(services, request.model)
    tokens = [token for token in request.prompt if isinstance(token, int)]
    return tokenize.text_of(services, model, tokens)


def handle(
    request: InferenceRequest, renderer_type: RendererType, max_tokens: int | None = None
) -> Response:
    """Handle an inference request.

    Args:
        request: the request, translated to OpenAI's terms.
        renderer_type: makes the renderer of the client's API.
        max_tokens: the most tokens if neither the request nor the model sets them; None to fill
            the context.

    Raises:
        ServiceError: the request is invalid or failed.
        ClientDisconnected: the client closed its connection.
    """
    _check_options(request)
    services = current_services()
    model = model_lookup.chat_model(services, request.model)
    g.model = model.name
    model_settings = services.model_settings.of(model.name)
    context_limit = prompt_limits.context_limit(services.settings, model, model_settings)
    prompt_limits.check_messages(request, context_limit)
    defaults = model_lookup.sampling_defaults(model, model_settings)
    if max_tokens is not None:
        defaults.setdefault("max_tokens", max_tokens)
    used = used_parameters(request)
    if not ADVISORY.isdisjoint(used):
        parameter_policy().drop_advisory(used)
    params = SamplingParams.resolve(used, defaults)
    context = new_context(services, bool(request.stream))
    with ExitStack() as stack:
        stack.enter_context(services.in_flight.track(flask.request.environ, context.cancel))
        image_parts = images_in(request.messages) if isinstance(request, ChatRequest) else []
        images = load_images(services, image_parts, model, context) if image_parts else []
        prepared = _prepare(request, params, model, model_settings.chat_template, images, context)
        context.unenforced = prepared.unenforced
        prompt_limits.check_prompt(prepared.request, context_limit)
        identify(context, services, prepared.request, model)
        attempt = partial(start, services, model, prepared.request, context)
        render = partial(renderer_type, request.model or model.name, params)
        if request.stream:
            response = _stream(services, attempt, prepared, render, context, stack)
        else:
            retry = RetryPolicy(context.cancel, model.name)
            response = reply(retry.call(partial(_complete, attempt, prepared, render)))
        if prepared.unenforced:
            # Afterwards, since the client does not wait for it.
            response.call_on_close(partial(_check_arguments, prepared, context))
        return response


def _check_options(request: InferenceRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
    if request.stream_options is not None and request.stream_options.include_obfuscation:
        raise UnsupportedParameter(
            "stream_options.include_obfuscation", "Stream padding is not supported. Omit it."
        )
    if isinstance(request, ChatRequest) and request.top_logprobs and not request.logprobs:
        raise InvalidRequest(
            "'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs"
        )


def _prepare(
    request: InferenceRequest,
    params: SamplingParams,
    model: Model,
    template: Path | None,
    images: list[ImageInput],
    context: RequestContext,
) -> PreparedRequest:
    """Apply the chat template, and build the grammar that constrains the output."""
    previous = CALLER.set(context)
    try:
        if not isinstance(request, ChatRequest):
            tokens = chat_tokens(model.path, model.format, model.revision)
            return prepare_completion(request, params, tokens.control)
        known_format = chat_format(model, template)
        return prepare_chat(request, params, known_format, images, context.policy.unknown)
    finally:
        CALLER.reset(previous)


def _complete(
    attempt: Attempt, prepared: PreparedRequest, render: Callable[[], Renderer]
) -> Struct:
    with closing(attempt()) as batches:
        return render().plain(prepared.read(batches))


def _stream(
    services: Services,
    attempt: Attempt,
    prepared: PreparedRequest,
    render: Callable[[], Renderer],
    context: RequestContext,
    stack: ExitStack,
) -> Response:
    """Stream a response; `stack` is closed with it."""
    retry = RetryPolicy(context.cancel, g.model)
    parts = stack.enter_context(closing(retry.attempts(attempt, prepared.read)))
    events = itertools.chain.from_iterable(parts)
    # Whatever refuses the request does so before the engine begins. The engine's first sign leaves
    # time to send the head of the stream, which would otherwise delay the first token.
    first = next(events, [])
    if g.get("relayed") and not first:
        # A proxy tries another instance if this one ends before the head was sent.
        first = next(events, [])
    renderer = render()
    if services.settings.stream_pulse_chunks:
        renderer.wait_in_chunks()
    body = renderer.encode(itertools.chain([first], events), partial(_report_error, context))
    response = Response(body, mimetype=renderer.content_type, headers=STREAM_HEADERS)
    response.call_on_close(stack.pop_all().close)
    return response


def _check_arguments(prepared: PreparedRequest, context: RequestContext) -> None:
    """Validate the arguments of tool calls whose schemas the grammar did not enforce in full."""
    # The client may have left, which changes nothing.
    previous = CALLER.set(Work(context.owner))
    try:
        context.violations = prepared.violations()
    finally:
        CALLER.reset(previous)
    if context.violations:
        keywords = sorted(set(context.violations))
        log.warning("tool argument violations detected", keywords=keywords)


def _report_error(context: RequestContext, error: ServiceError) -> None:
    # Not its message, which may be the engine's own words about the request.
    log.warning("stream ended with an error", error=type(error).__name__, code=error.code)
    context.problem = error.code
