"""Renders events in Ollama's format, as one response or as JSON lines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from vllm_obtain.errors import EngineFailed, ServiceError
from vllm_obtain.gateway.ollama.errors import error_body
from vllm_obtain.gateway.ollama.response_types import (
    CallAnswer,
    ChatAnswer,
    FunctionAnswer,
    GenerateAnswer,
    MessageAnswer,
    now,
)
from vllm_obtain.gateway.ollama.timings import TimingRecorder
from vllm_obtain.gateway.openai.render import Renderer
from vllm_obtain.protocol.completion import CompletedCall, CompletedChoice, gather
from vllm_obtain.protocol.events import (
    Event,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from vllm_obtain.protocol.sampling_params import SamplingParams

Batches = Iterable[list[Event]]

_encode = msgspec.json.Encoder().encode
_arguments = msgspec.json.Decoder(dict[str, Any]).decode


class OllamaRenderer(Renderer):
    """Base class of the renderers of chat and generate responses.

    A line of a stream contains the text and reasoning of one batch of events. Tool calls are sent
    when they are complete. The last line has the reason, the token counts and the durations.

    Args:
        model: model name that the client sees.
        params: the sampling parameters of the request.
        timings: records the times of the request.
    """

    content_type = "application/x-ndjson"

    def __init__(self, model: str, params: SamplingParams, timings: TimingRecorder) -> None:
        super().__init__(model, params)
        self._alternatives = params.logprobs or 0
        self._timings = timings

    @abstractmethod
    def render(self, choice: CompletedChoice) -> ChatAnswer | GenerateAnswer:
        """Render a complete choice, or an addition to it as a line of a stream."""

    def plain(self, batches: Batches) -> Struct:
        """Join all events into one response."""
        (choice,), usage = gather(self._timings.record(batches), 1)
        return self._done(self.render(choice), choice.reason, usage)

    def stream(self, batches: Batches) -> Iterator[bytes]:
        """Encode events as they arrive, and the last line."""
        calls: list[CompletedCall] = []
        started, reason, usage = False, "stop", Usage(0, 0)
        for events in self._timings.record(batches):
            addition = _join(events, calls)
            for part in events:
                if isinstance(part, Finish):
                    reason, addition.calls = part.reason, calls
                elif isinstance(part, Usage):
                    usage = part
            if addition.text or addition.reasoning or addition.calls:
                yield _line(self.render(addition))
            elif not events:
                # Every line must be JSON, so the keep-alive is a line without content. The first
                # batch only sends the headers.
                yield _line(self.render(addition)) if started else b""
            started = True
        yield _line(self._done(self.render(CompletedChoice(0)), reason, usage))

    def failed(self, error: ServiceError) -> bytes:
        """Encode an error as the last line."""
        return _line(error_body(error))

    def calls(self, choice: CompletedChoice) -> list[CallAnswer]:
        """Render tool calls, whose arguments are objects in Ollama's format.

        A call that the token limit truncated is omitted; `done_reason` is `length` then.

        Raises:
            EngineFailed: the arguments are complete, but not a JSON object.
        """
        calls: list[CallAnswer] = []
        for call in choice.calls:
            try:
                arguments = _arguments(call.arguments or "{}")
            except msgspec.MsgspecError:
                if choice.reason == "length":
                    continue
                raise EngineFailed(
                    f"The model called '{call.name}' with arguments that are not a JSON object. "
                    "Try again."
                ) from None
            calls.append(CallAnswer(call.id, FunctionAnswer(len(calls), call.name, arguments)))
        return calls

    def logprobs(self, choice: CompletedChoice) -> list[dict[str, Any]]:
        """Render log probabilities, with the requested number of alternatives."""
        return [
            {**_token(entry), "top_logprobs": list(map(_token, self._top(entry)))}
            for part in choice.logprobs
            for entry in part.get("content") or ()
        ]

    def _top(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        alternatives: list[dict[str, Any]] = entry.get("top_logprobs") or []
        return alternatives[: self._alternatives]

    def _done(
        self, response: ChatAnswer | GenerateAnswer, reason: str, usage: Usage
    ) -> ChatAnswer | GenerateAnswer:
        response.done = True
        response.done_reason = "length" if reason == "length" else "stop"
        self._timings.set_metrics(response, usage)
        return response


class ChatRenderer(OllamaRenderer):
    """The format of /api/chat."""

    def render(self, choice: CompletedChoice) -> ChatAnswer:
        message = MessageAnswer(content=choice.text, thinking=choice.reasoning or UNSET)
        message.tool_calls = self.calls(choice) or UNSET
        return ChatAnswer(
            model=self.model,
            created_at=now(),
            message=message,
            logprobs=self.logprobs(choice) or UNSET,
        )


class GenerateRenderer(OllamaRenderer):
    """The format of /api/generate, which has no tool calls."""

    def render(self, choice: CompletedChoice) -> GenerateAnswer:
        return GenerateAnswer(
            model=self.model,
            created_at=now(),
            response=choice.text,
            thinking=choice.reasoning or UNSET,
            logprobs=self.logprobs(choice) or UNSET,
        )


def _join(events: list[Event], calls: list[CompletedCall]) -> CompletedChoice:
    """Join events to an addition; tool calls are collected in `calls` until they are complete."""
    addition = CompletedChoice(0)
    for part in events:
        if isinstance(part, TextDelta):
            addition.text += part.text
            if part.logprobs is not None:
                addition.logprobs.append(part.logprobs)
        elif isinstance(part, ReasoningDelta):
            addition.reasoning += part.text
        elif isinstance(part, ToolCallDelta):
            if part.number == len(calls):
                calls.append(CompletedCall(part.id or "", part.name or ""))
            calls[part.number].arguments += part.arguments
        elif isinstance(part, Finish):
            addition.reason = part.reason
    return addition


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("token", "logprob", "bytes") if name in entry}


def _line(body: object) -> bytes:
    return _encode(body) + b"\n"
