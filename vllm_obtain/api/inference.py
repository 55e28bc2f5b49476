"""The route of an inference request, the same for chat and text: parse, find, generate, render."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
from flask import Response, g, request

from vllm_obtain.api.cancel import Cancel, watched
from vllm_obtain.api.errors import error_event
from vllm_obtain.api.flights import key_of, recall_or_generate
from vllm_obtain.api.generate import Generation
from vllm_obtain.api.render import ChatRenderer, Renderer, TextRenderer
from vllm_obtain.api.services import Services, services
from vllm_obtain.catalogue import Model
from vllm_obtain.engines.choice import default_model
from vllm_obtain.errors import ClientGone, InvalidRequest, ServiceError, UnsupportedParameter
from vllm_obtain.log import get_logger
from vllm_obtain.protocol.events import Event
from vllm_obtain.protocol.parse import parse_chat, parse_completion
from vllm_obtain.protocol.prompts import flatten
from vllm_obtain.protocol.requests import ChatRequest, InferenceRequest

log = get_logger("vllm_obtain.generate")

Batches = Iterator[list[Event]]

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def chat() -> Response:
    """POST /v1/chat/completions."""
    asked = parse_chat(request.get_data())
    flatten(asked.messages)
    return _answer(asked, ChatRenderer)


def completions() -> Response:
    """POST /v1/completions."""
    return _answer(parse_completion(request.get_data()), TextRenderer)


def _answer(asked: InferenceRequest, renderer: type[Renderer]) -> Response:
    made = services()
    _check(asked)
    model = _model(made, asked)
    g.model = model.name
    cancel = Cancel()
    with ExitStack() as held:
        held.enter_context(watched(request.environ, cancel))
        batches = held.enter_context(_closing(_batches(made, asked, model, cancel, held)))
        # Whatever refuses the request does so before the engine begins; from then on there is time
        # to send the head of a stream, which would otherwise delay its first token.
        first = next(batches, [])
        name = asked.model or model.name
        render = renderer(name, asked.wants_usage, asked.alternatives, asked.choices)
        body = _chain(first, batches)
        if not asked.wants_stream:
            return _json(render.plain(body))
        # From here on the stream holds everything, until the server closes it.
        return _stream(render, body, held.pop_all())


def _check(asked: InferenceRequest) -> None:
    if asked.stream_options is not None and not asked.wants_stream:
        raise InvalidRequest(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
    if asked.stream_options is not None and asked.stream_options.include_obfuscation:
        raise UnsupportedParameter(
            "stream_options.include_obfuscation", "Streams are never padded here; leave it out."
        )
    if isinstance(asked, ChatRequest) and asked.top_logprobs and not asked.logprobs:
        raise InvalidRequest(
            "'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs"
        )


def _model(made: Services, asked: InferenceRequest) -> Model:
    if asked.model:
        return made.catalogue.find(asked.model)
    model = default_model(made.catalogue, made.settings)
    if model is None:
        raise InvalidRequest(
            "Missing required parameter: 'model', and there is no default model.",
            param="model",
            code="missing_required_parameter",
        )
    return model


def _batches(
    made: Services, asked: InferenceRequest, model: Model, cancel: Cancel, held: ExitStack
) -> Batches:
    def generation(who: Cancel) -> Generation:
        timeout, pulse = made.settings.request_timeout, made.settings.pulse
        return Generation(made.supervisor, made.adapter, model, asked, who, timeout, pulse)

    if not _is_cacheable(made, asked):
        made_now = generation(cancel)
        g.tally = made_now.tally
        return iter(made_now)
    key = key_of(asked, model, request.headers.get("Authorization", ""))
    fill = recall_or_generate(made.supervisor, key, model, generation)
    flight, known = made.flights.join(key, fill)
    held.callback(made.flights.leave, key, flight)
    g.cache = lambda: "hit" if known or flight.recalled else "miss"
    return flight.follow(cancel)


def _is_cacheable(made: Services, asked: InferenceRequest) -> bool:
    return (
        made.settings.enable_caching
        and asked.is_deterministic
        and "no-store" not in request.headers.get("Cache-Control", "").lower()
    )


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), mimetype="application/json")


def _stream(render: Renderer, batches: Batches, held: ExitStack) -> Response:
    def out() -> Iterator[bytes]:
        try:
            yield from render.stream(batches)
        except ServiceError as error:
            log.warning("stream broken off", reason=error.message)
            yield error_event(error)
        except ClientGone:
            return

    response = Response(out(), mimetype="text/event-stream", headers=STREAM_HEADERS)
    response.call_on_close(held.close)
    return response


def _chain(first: list[Event], rest: Batches) -> Batches:
    yield first
    yield from rest


class _closing:  # noqa: N801 - named like contextlib's, which wants a `close` in the type
    """Close an iterator that is a generator at the end of a block."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __enter__(self) -> Batches:
        return self._batches

    def __exit__(self, *_: object) -> None:
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
