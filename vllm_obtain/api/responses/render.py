"""From events to a response, whole or as a stream of typed events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from vllm_obtain.api.render import Batches, Renderer
from vllm_obtain.api.responses import shapes, told
from vllm_obtain.api.responses.asked import Asked, FunctionTool, PlainText
from vllm_obtain.api.responses.building import Building
from vllm_obtain.api.responses.items import new_id
from vllm_obtain.api.responses.shapes import ResponseBody
from vllm_obtain.api.responses.told import Told
from vllm_obtain.api.responses.translate import own_words
from vllm_obtain.errors import EngineFailed, ServiceError
from vllm_obtain.protocol.requests import InferenceRequest
from vllm_obtain.protocol.sse import WAITING

_encode = msgspec.json.Encoder().encode

# Keeps a response and says whether it could be.
Keeper = Callable[[ResponseBody], bool]


class ResponsesRenderer(Renderer):
    """The Responses format.

    Args:
        model: the name the client gets to see.
        request: what is answered, in chat's words.
        asked: what is answered, in the client's words.
        keep: called with the response when it is complete.
    """

    def __init__(self, model: str, request: InferenceRequest, asked: Asked, keep: Keeper) -> None:
        super().__init__(model, request)
        self._keep = keep
        self._told = 0
        self._building = Building(asked.summarises, asked.includes_reasoning, request.alternatives)
        self._body = _begun(asked, request, model, self.created)

    def plain(self, batches: Batches) -> Struct:
        """Join all events into one response."""
        for events in batches:
            for event in events:
                for _ in self._building.take(event):
                    pass
        return self._finished().response

    def stream(self, batches: Batches) -> Iterator[bytes]:
        """Encode events as they come, and the end."""
        head = self._lines([told.Created(self._body), told.InProgress(self._body)])
        for events in batches:
            lines = [self._lines(self._building.take(event)) for event in events]
            if out := b"".join([head, *lines]):
                yield out
            elif not events:
                yield WAITING
            head = b""
        yield self._line(self._finished())

    def failed(self, error: ServiceError) -> bytes:
        """Encode an error that breaks a stream off."""
        error = own_words(error)
        if not self._told:
            return self._line(told.ErrorEvent(error.code, error.message, error.param))
        open_items = self._lines(self._building.close("incomplete"))
        self._body.output = self._building.output
        self._body.status = "failed"
        self._body.error = shapes.Failure(_code(error), error.message, error.param, error.type)
        self._body.store = False
        return open_items + self._line(told.Failed(self._body))

    def _finished(self) -> told.Completed | told.IncompleteEvent:
        """Complete the response and have it kept."""
        built, body = self._building, self._body
        if not built.reason:
            raise EngineFailed("The engine's answer has no end. Try again.")
        body.output = built.output
        body.usage = shapes.ResponseUsage.of(built.usage) if built.usage else None
        if built.reason == "length":
            body.status, body.incomplete_details = "incomplete", shapes.Incomplete()
        else:
            body.status, body.completed_at = "completed", int(time.time())
        body.store = body.store and self._keep(body)
        cut = body.status == "incomplete"
        return told.IncompleteEvent(body) if cut else told.Completed(body)

    def _lines(self, happened: Iterable[Told]) -> bytes:
        return b"".join(map(self._line, happened))

    def _line(self, event: Told) -> bytes:
        """Number an event and encode it, at once: its item goes on changing."""
        event.sequence_number = self._told
        self._told += 1
        name = event.__struct_config__.tag
        return b"event: %s\ndata: %s\n\n" % (str(name).encode(), _encode(event))


def _code(error: ServiceError) -> str:
    """Choose among OpenAI's codes of failed responses; the message says what happened."""
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status < 500 else "server_error"


def _begun(asked: Asked, request: InferenceRequest, model: str, created: int) -> ResponseBody:
    """Make a response that has only begun: its id, and what holds for it."""
    text = asked.text
    reasoning = asked.reasoning
    return ResponseBody(
        id=new_id("resp"),
        created_at=created,
        model=model,
        instructions=asked.instructions,
        max_output_tokens=asked.max_output_tokens,
        metadata=asked.metadata or {},
        output=[],
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        previous_response_id=asked.previous_response_id,
        prompt_cache_key=asked.prompt_cache_key,
        reasoning={
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        safety_identifier=asked.safety_identifier,
        store=asked.stores,
        temperature=request.sampling.temperature,
        text={"format": (text.format if text else None) or PlainText()},
        tool_choice=asked.tool_choice or "auto",
        tools=[_tool(tool) for tool in asked.tools or ()],
        top_logprobs=asked.top_logprobs or 0,
        top_p=request.sampling.top_p,
        user=asked.user,
    )


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", **msgspec.structs.asdict(tool)}
