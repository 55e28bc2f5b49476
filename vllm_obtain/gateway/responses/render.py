"""Renders events as a response or as a stream of typed events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import Struct

from vllm_obtain.errors import EngineFailed, ServiceError
from vllm_obtain.gateway.openai.render import Batches, Renderer
from vllm_obtain.gateway.responses import response_types, stream_types
from vllm_obtain.gateway.responses.item_builder import ResponseBuilder
from vllm_obtain.gateway.responses.items import new_id
from vllm_obtain.gateway.responses.request_types import PlainText, ResponsesRequest
from vllm_obtain.gateway.responses.response_types import ResponseBody
from vllm_obtain.gateway.responses.stream_types import StreamEvent
from vllm_obtain.gateway.responses.translate import to_responses_error
from vllm_obtain.protocol.sampling_params import SamplingParams
from vllm_obtain.protocol.sse import WAITING

_encode = msgspec.json.Encoder().encode

# Stores a response; returns whether it was stored.
StoreCallback = Callable[[ResponseBody], bool]


class ResponsesRenderer(Renderer):
    """The Responses format.

    Args:
        model: the model's name in the response.
        params: the sampling parameters of the request.
        body: the body of the HTTP request.
        store: called with the complete response.
    """

    def __init__(
        self, model: str, params: SamplingParams, body: ResponsesRequest, store: StoreCallback
    ) -> None:
        super().__init__(model, params)
        self._store = store
        self._sequence_number = 0
        self._builder = ResponseBuilder(
            body.summarises, body.includes_reasoning, params.logprobs or 0, body.namespaced
        )
        self._body = _new_response(body, params, model, self.created)

    def plain(self, batches: Batches) -> Struct:
        """Join all events into one response."""
        for events in batches:
            for event in events:
                for _ in self._builder.take(event):
                    pass
        return self._finished().response

    def stream(self, batches: Batches) -> Iterator[bytes]:
        """Encode events as they arrive, and the final event."""
        head = self._lines([stream_types.Created(self._body), stream_types.InProgress(self._body)])
        for events in batches:
            lines = [self._lines(self._builder.take(event)) for event in events]
            if out := b"".join([head, *lines]):
                yield out
            elif not events:
                yield WAITING
            head = b""
        yield self._line(self._finished())

    def failed(self, error: ServiceError) -> bytes:
        """Encode an error that ends a stream."""
        error = to_responses_error(error)
        if not self._sequence_number:
            return self._line(stream_types.ErrorEvent(error.code, error.message, error.param))
        open_items = self._lines(self._builder.close("incomplete"))
        self._body.output = self._builder.output
        self._body.status = "failed"
        self._body.error = response_types.Failure(
            _code(error), error.message, error.param, error.type
        )
        self._body.store = False
        return open_items + self._line(stream_types.Failed(self._body))

    def _finished(self) -> stream_types.Completed | stream_types.IncompleteEvent:
        """Complete and store the response."""
        builder, body = self._builder, self._body
        if not builder.reason:
            raise EngineFailed("The engine's stream ended without a finish reason. Try again.")
        body.output = builder.output
        body.usage = response_types.ResponseUsage.of(builder.usage) if builder.usage else None
        if builder.reason == "length":
            body.status, body.incomplete_details = "incomplete", response_types.Incomplete()
        else:
            body.status, body.completed_at = "completed", int(time.time())
        body.store = body.store and self._store(body)
        cut = body.status == "incomplete"
        return stream_types.IncompleteEvent(body) if cut else stream_types.Completed(body)

    def _lines(self, events: Iterable[StreamEvent]) -> bytes:
        return b"".join(map(self._line, events))

    def _line(self, event: StreamEvent) -> bytes:
        """Number and encode an event immediately, because its item changes later."""
        event.sequence_number = self._sequence_number
        self._sequence_number += 1
        name = event.__struct_config__.tag
        return b"event: %s\ndata: %s\n\n" % (str(name).encode(), _encode(event))


def _code(error: ServiceError) -> str:
    """Return OpenAI's code of a failed response."""
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status < 500 else "server_error"


def _new_response(
    body: ResponsesRequest, params: SamplingParams, model: str, created: int
) -> ResponseBody:
    """Make the response in progress, with an id and the parameters of its request."""
    text = body.text
    reasoning = body.reasoning
    return ResponseBody(
        id=new_id("resp"),
        created_at=created,
        model=model,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        reasoning={
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        safety_identifier=body.safety_identifier,
        store=body.stores,
        temperature=params.temperature,
        text={"format": (text.format if text else None) or PlainText()},
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=params.top_p,
        user=body.user,
    )
