"""Aggregates stream events into complete choices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vllm_obtain.protocol.events import (
    Event,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)


@dataclass
class CompletedCall:
    """A complete tool call.

    Args:
        id: id of the call.
        name: name of the function.
        arguments: a JSON object as text; incomplete if the completion was cut off within it.
    """

    id: str
    name: str
    arguments: str = ""


@dataclass
class CompletedChoice:
    """A complete choice.

    Args:
        index: its number.
        text: the text.
        reasoning: the reasoning before the text.
        calls: its tool calls.
        logprobs: OpenAI's `logprobs` objects of its deltas, as the engine sent them.
        reason: the finish reason.
    """

    index: int
    text: str = ""
    reasoning: str = ""
    calls: list[CompletedCall] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    reason: str = "stop"


def gather(batches: Iterable[list[Event]], choices: int) -> tuple[list[CompletedChoice], Usage]:
    """Aggregate all events of a generation.

    Args:
        batches: the events in order.
        choices: the number of choices.
    """
    completed = [CompletedChoice(index) for index in range(choices)]
    texts: list[list[str]] = [[] for _ in completed]
    reasoning: list[list[str]] = [[] for _ in completed]
    usage = Usage(0, 0)
    for events in batches:
        for event in events:
            if isinstance(event, TextDelta):
                texts[event.index].append(event.text)
                if event.logprobs is not None:
                    completed[event.index].logprobs.append(event.logprobs)
            elif isinstance(event, ReasoningDelta):
                reasoning[event.index].append(event.text)
            elif isinstance(event, ToolCallDelta):
                _call(completed[event.index].calls, event)
            elif isinstance(event, Finish):
                completed[event.index].reason = event.reason
            elif isinstance(event, Usage):
                usage = event
    for choice in completed:
        choice.text = "".join(texts[choice.index])
        choice.reasoning = "".join(reasoning[choice.index])
    return completed, usage


def _call(calls: list[CompletedCall], delta: ToolCallDelta) -> None:
    if delta.number == len(calls):
        calls.append(CompletedCall(delta.id or "", delta.name or ""))
    calls[delta.number].arguments += delta.arguments
