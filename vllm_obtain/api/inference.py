"""The route of an inference request, the same for chat and text: parse, find, generate, render."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import cast

from flask import Response, g, request

from vllm_obtain.api import entry, lengths, pick
from vllm_obtain.api.cancel import Cancel
from vllm_obtain.api.defaults import fill
from vllm_obtain.api.endurance import Endurance
from vllm_obtain.api.fingerprint import fingerprint
from vllm_obtain.api.flights import Flight, key_of
from vllm_obtain.api.generate import Generation, Keeper
from vllm_obtain.api.leniency import Leniency
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.render import ChatRenderer, Renderer, TextRenderer
from vllm_obtain.api.replay import Replay
from vllm_obtain.api.reply import reply
from vllm_obtain.api.seen import seen
from vllm_obtain.api.services import Services, services
from vllm_obtain.catalogue import Model
from vllm_obtain.catalogue.chat_words import chat_words
from vllm_obtain.chat.prepare import Prepared, prepare_chat, prepare_completion
from vllm_obtain.errors import ClientGone, InvalidRequest, ServiceError, UnsupportedParameter
from vllm_obtain.log import get_logger
from vllm_obtain.protocol import apart
from vllm_obtain.protocol.events import Event
from vllm_obtain.protocol.parse import parse_chat, parse_completion
from vllm_obtain.protocol.requests import ChatRequest, InferenceRequest
from vllm_obtain.protocol.task import Image, Task

log = get_logger("vllm_obtain.generate")

Batches = Iterator[list[Event]]
Shape = Callable[[str, InferenceRequest], Renderer]

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def chat() -> Response:
    """POST /v1/chat/completions."""
    return answer(parse_chat(read_body(), leniency().unknown), ChatRenderer)


def completions() -> Response:
    """POST /v1/completions."""
    return answer(parse_completion(read_body(), leniency().unknown), TextRenderer)


def leniency() -> Leniency:
    """What becomes of what the request asks for in vain; one for each request."""
    if "leniency" not in g:
        g.leniency = Leniency(services().settings.strict_parameters)
    return cast(Leniency, g.leniency)


def answer(asked: InferenceRequest, renderer: Shape) -> Response:
    """Answer a request.

    Args:
        asked: what the client wants, in OpenAI's terms.
        renderer: makes what shapes the answer, from the model's name and the request.

    Raises:
        ServiceError: it cannot be answered.
        ClientGone: nobody waits for the answer any more.
    """
    made = services()
    _check(asked)
    model = pick.talker(made, asked.model)
    g.model = model.name
    lengths.check_messages(made, model, asked)
    fill(asked, model, made.model_settings.of(model.name))
    cancel = Cancel()
    with ExitStack() as held:
        held.enter_context(made.working.on(request.environ, cancel))
        prepared = _prepared(asked, model, seen(made, asked, model, cancel, leniency()))
        task = prepared.task
        lengths.check_prompt(made, model, task.prompt, "messages" if task.is_chat else "prompt")
        again = Endurance(time.monotonic() + made.settings.request_timeout)
        begin = _beginning(made, task, model, cancel, again)

        def render() -> Renderer:
            return renderer(asked.model or model.name, asked)

        replay = Replay(prepared, begin, again, model.name)
        if not asked.wants_stream:
            return reply(replay.whole(lambda batches: render().plain(batches)))
        # Whatever refuses the request does so before the engine begins; from then on there is time
        # to send the head of a stream, which would otherwise delay its first token.
        batches = held.enter_context(_closing(replay.events()))
        first = next(batches, [])
        if g.get("relayed") and not first:
            # A proxy asks another instance if this one ends, as long as nothing was answered.
            first = next(batches, [])
        shaped = render()
        if made.settings.stream_pulse_chunks:
            shaped.wait_in_chunks()
        # From here on the stream holds everything, until the server closes it.
        return _stream(shaped, _chain(first, batches), held.pop_all())


def _prepared(asked: InferenceRequest, model: Model, images: list[Image]) -> Prepared:
    while True:
        try:
            if isinstance(asked, ChatRequest):
                return prepare_chat(asked, services().speaker(model), images)
            return prepare_completion(asked, chat_words(model).control)
        except UnsupportedParameter as error:
            asked = leniency().without(asked, error)


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


def _beginning(
    made: Services, task: Task, model: Model, cancel: Cancel, again: Endurance
) -> Callable[[ExitStack], Batches]:
    """Make what begins a generation, also without the request's context, which streams lack."""
    lenient, billed, asked = leniency(), entry.account(), fingerprint(task, model)
    if not made.settings.shared_prefix_cache:
        task = replace(task, trail=apart.trail(entry.owner(), task.prompt))
    cacheable = _is_cacheable(made, task.request)
    key = key_of(asked, model, entry.owner()) if cacheable else b""
    about = g._get_current_object()
    headers = g.trace.headers

    def generation(who: Cancel, keeper: Keeper | None = None) -> Generation:
        more = (again, made.settings.pulse, lenient, keeper, billed, headers)
        return Generation(made.supervisor, made.adapter, model, task, asked, who, *more)

    def shared(flight: Flight) -> Generation:
        leading = generation(flight.cancel, flight)
        flight.tally = leading.tally
        return leading

    def begin(held: ExitStack) -> Batches:
        if not cacheable:
            alone = generation(cancel)
            about.tally = alone.tally
            return held.enter_context(_closing(iter(alone)))
        billed.spend(made.supervisor)
        flight, known = made.flights.join(key, shared)
        held.callback(made.flights.leave, flight)
        # Who follows another's has made nothing, and nothing is counted for it.
        about.led = None if known else flight
        about.cache = lambda: "hit" if known or flight.recalled else "miss"
        return held.enter_context(_closing(flight.follow(cancel)))

    return begin


def _is_cacheable(made: Services, asked: InferenceRequest) -> bool:
    return (
        made.settings.enable_caching
        # A kept answer does not tell what was ignored for it.
        and made.settings.strict_parameters
        and asked.is_deterministic
        and "no-store" not in request.headers.get("Cache-Control", "").lower()
    )


def _stream(render: Renderer, batches: Batches, held: ExitStack) -> Response:
    about = g._get_current_object()

    def out() -> Iterator[bytes]:
        try:
            yield from render.stream(batches)
        except ServiceError as error:
            # Not its message, which may be the engine's own words about the request.
            log.warning("stream broken off", error=type(error).__name__, code=error.code)
            about.problem = error.code
            yield render.failed(error)
        except ClientGone:
            return

    response = Response(out(), mimetype=render.content_type, headers=STREAM_HEADERS)
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
