"""What a choice came to: the events of an answer joined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vllm_obtain.protocol.events import Call, Delta, Event, Finish, Thought, Usage


@dataclass
class Called:
    """A tool call, whole.

    Args:
        id: of the call.
        name: of the function.
        arguments: a text that holds a JSON object, unless the answer was cut off in it.
    """

    id: str
    name: str
    arguments: str = ""


@dataclass
class Said:
    """A choice.

    Args:
        index: its number.
        text: the answer.
        thought: the reasoning before it.
        calls: the tools it calls.
        logprobs: OpenAI's `logprobs` objects of its pieces, as engines gave them.
        reason: why it ended.
    """

    index: int
    text: str = ""
    thought: str = ""
    calls: list[Called] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    reason: str = "stop"


def gather(batches: Iterable[list[Event]], choices: int) -> tuple[list[Said], Usage]:
    """Join all events of an answer.

    Args:
        batches: the events as they came.
        choices: how many choices there are.
    """
    said = [Said(index) for index in range(choices)]
    texts: list[list[str]] = [[] for _ in said]
    thoughts: list[list[str]] = [[] for _ in said]
    usage = Usage(0, 0)
    for events in batches:
        for part in events:
            if isinstance(part, Delta):
                texts[part.index].append(part.text)
                if part.logprobs is not None:
                    said[part.index].logprobs.append(part.logprobs)
            elif isinstance(part, Thought):
                thoughts[part.index].append(part.text)
            elif isinstance(part, Call):
                _call(said[part.index].calls, part)
            elif isinstance(part, Finish):
                said[part.index].reason = part.reason
            elif isinstance(part, Usage):
                usage = part
    for one, text, thought in zip(said, texts, thoughts, strict=True):
        one.text, one.thought = "".join(text), "".join(thought)
    return said, usage


def _call(calls: list[Called], part: Call) -> None:
    if part.number == len(calls):
        calls.append(Called(part.id or "", part.name or ""))
    calls[part.number].arguments += part.arguments
