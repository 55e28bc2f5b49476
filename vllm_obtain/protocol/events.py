"""Engine-independent stream events (text, reasoning, tool call, finish, usage)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace


class PromptProgress(Struct, tag="Progress", frozen=True):
    """Progress of the prefill.

    Args:
        total: tokens of the prompt.
        processed: tokens that are processed.
        cached: tokens that came from the prefix cache.
    """

    total: int
    processed: int
    cached: int = 0


class TextDelta(Struct, tag="Delta", frozen=True):
    """New text.

    Args:
        text: new text; characters are never split.
        logprobs: OpenAI's `logprobs` object for these tokens, as the engine sent it.
        index: index of the choice.
    """

    text: str
    logprobs: Any = None
    index: int = 0


class ReasoningDelta(Struct, tag="Thought", frozen=True):
    """New reasoning text, which is not part of the content.

    Args:
        text: new text; characters are never split.
        index: index of the choice.
    """

    text: str
    index: int = 0


class ToolCallDelta(Struct, tag="Call", frozen=True):
    """A part of a tool call.

    Args:
        number: number of the call within the choice, from 0.
        arguments: more text of its arguments, which together are JSON.
        id: id of the call; only in its first event.
        name: name of the function; only in its first event.
        index: index of the choice.
    """

    number: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None
    index: int = 0


class Finish(Struct, tag=True, frozen=True):
    """The end of a choice.

    Args:
        reason: `stop`, `length` or `tool_calls`.
        index: index of the choice.
        stop: the stop sequence that ended it, if the engine reports it.
    """

    reason: str
    index: int = 0
    stop: str | None = None


class Usage(Struct, tag=True, frozen=True):
    """Token counts of the generation; reasoning tokens are part of the completion tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


Event = PromptProgress | TextDelta | ReasoningDelta | ToolCallDelta | Finish | Usage


def replicate(events: list[Event], copies: int) -> list[Event]:
    """Copy the events of one choice to several identical choices."""
    replicated: list[Event] = []
    for event in events:
        if isinstance(event, Usage):
            tokens = event.completion_tokens * copies
            replicated.append(Usage(event.prompt_tokens, tokens, event.cached_tokens))
        elif isinstance(event, PromptProgress):
            replicated.append(event)
        else:
            replicated += (replace(event, index=index) for index in range(copies))
    return replicated
