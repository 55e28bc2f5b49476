"""From events to Ollama's answers: whole, or a line of JSON for each piece."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from vllm_obtain.api.ollama.answers import (
    CallAnswer,
    ChatAnswer,
    FunctionAnswer,
    GenerateAnswer,
    MessageAnswer,
    now,
)
from vllm_obtain.api.ollama.errors import error_body
from vllm_obtain.api.ollama.watch import Watch
from vllm_obtain.api.render import Renderer
from vllm_obtain.errors import EngineFailed, ServiceError
from vllm_obtain.protocol.events import Call, Delta, Event, Finish, Thought, Usage
from vllm_obtain.protocol.requests import InferenceRequest
from vllm_obtain.protocol.said import Called, Said, gather

Batches = Iterable[list[Event]]

_encode = msgspec.json.Encoder().encode
_arguments = msgspec.json.Decoder(dict[str, Any]).decode


class OllamaRenderer(Renderer):
    """What chat and generate have in common.

    A stream's line has the text and the reasoning of the events that came together. Calls go out
    whole, when the last of their arguments is there. The last line says how it ended and what it
    took.

    Args:
        model: the name the client gets to see.
        request: what is answered.
        watch: knows the times.
    """

    content_type = "application/x-ndjson"

    def __init__(self, model: str, request: InferenceRequest, watch: Watch) -> None:
        super().__init__(model, request)
        self._alternatives = request.alternatives
        self._watch = watch

    @abstractmethod
    def answer(self, said: Said) -> ChatAnswer | GenerateAnswer:
        """Shape what was said: all of it, or what is new."""

    def plain(self, batches: Batches) -> Struct:
        """Join all events into one answer."""
        (said,), usage = gather(self._watch.over(batches), 1)
        return self._done(self.answer(said), said.reason, usage)

    def stream(self, batches: Batches) -> Iterator[bytes]:
        """Encode events as they come, and the end."""
        calls: list[Called] = []
        begun, reason, usage = False, "stop", Usage(0, 0)
        for events in self._watch.over(batches):
            said = _piece(events, calls)
            for part in events:
                if isinstance(part, Finish):
                    reason, said.calls = part.reason, calls
                elif isinstance(part, Usage):
                    usage = part
            if said.text or said.thought or said.calls:
                yield _line(self.answer(said))
            elif not events:
                # Every line must be JSON, so that one that says nothing new keeps the connection
                # alive. The first list only sends the head.
                yield _line(self.answer(said)) if begun else b""
            begun = True
        yield _line(self._done(self.answer(Said(0)), reason, usage))

    def failed(self, error: ServiceError) -> bytes:
        """Encode an error as the last line."""
        return _line(error_body(error))

    def calls(self, said: Said) -> list[CallAnswer]:
        """Shape calls; arguments are an object here.

        A call that was cut off by the limit of tokens is no call, and left out: `done_reason` says
        what happened.

        Raises:
            EngineFailed: arguments that are whole and no object.
        """
        made: list[CallAnswer] = []
        for call in said.calls:
            try:
                arguments = _arguments(call.arguments or "{}")
            except msgspec.MsgspecError:
                if said.reason == "length":
                    continue
                raise EngineFailed(
                    f"The model called '{call.name}' with arguments that are no JSON object. "
                    "Try again."
                ) from None
            made.append(CallAnswer(call.id, FunctionAnswer(len(made), call.name, arguments)))
        return made

    def logprobs(self, said: Said) -> list[dict[str, Any]]:
        """Shape log probabilities, as many alternatives as were asked for."""
        return [
            {**_token(entry), "top_logprobs": list(map(_token, self._others(entry)))}
            for part in said.logprobs
            for entry in part.get("content") or ()
        ]

    def _others(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        others: list[dict[str, Any]] = entry.get("top_logprobs") or []
        return others[: self._alternatives]

    def _done(
        self, answer: ChatAnswer | GenerateAnswer, reason: str, usage: Usage
    ) -> ChatAnswer | GenerateAnswer:
        answer.done = True
        answer.done_reason = "length" if reason == "length" else "stop"
        self._watch.tell(answer, usage)
        return answer


class ChatRenderer(OllamaRenderer):
    """The format of /api/chat."""

    def answer(self, said: Said) -> ChatAnswer:
        """Shape what was said as a message."""
        message = MessageAnswer(content=said.text, thinking=said.thought or UNSET)
        message.tool_calls = self.calls(said) or UNSET
        return ChatAnswer(
            model=self.model,
            created_at=now(),
            message=message,
            logprobs=self.logprobs(said) or UNSET,
        )


class GenerateRenderer(OllamaRenderer):
    """The format of /api/generate, which has no calls."""

    def answer(self, said: Said) -> GenerateAnswer:
        """Shape what was said as a text."""
        return GenerateAnswer(
            model=self.model,
            created_at=now(),
            response=said.text,
            thinking=said.thought or UNSET,
            logprobs=self.logprobs(said) or UNSET,
        )


def _piece(events: list[Event], calls: list[Called]) -> Said:
    """Join what is new; calls are gathered in `calls` until they are whole."""
    said = Said(0)
    for part in events:
        if isinstance(part, Delta):
            said.text += part.text
            if part.logprobs is not None:
                said.logprobs.append(part.logprobs)
        elif isinstance(part, Thought):
            said.thought += part.text
        elif isinstance(part, Call):
            if part.number == len(calls):
                calls.append(Called(part.id or "", part.name or ""))
            calls[part.number].arguments += part.arguments
        elif isinstance(part, Finish):
            said.reason = part.reason
    return said


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("token", "logprob", "bytes") if name in entry}


def _line(body: object) -> bytes:
    return _encode(body) + b"\n"
