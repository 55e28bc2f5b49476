"""What a generation is made of, whichever engine does it: the currency between relay and routes."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace


class Progress(Struct, tag=True, frozen=True):
    """How far the prompt is processed.

    Args:
        total: tokens of the prompt.
        processed: how many of them are done.
        cached: how many needed no work.
    """

    total: int
    processed: int
    cached: int = 0


class Delta(Struct, tag=True, frozen=True):
    """New text.

    Args:
        text: never cut within a character.
        logprobs: OpenAI's `logprobs` object for these tokens, as the engine gave it.
        index: which of the request's choices it belongs to.
    """

    text: str
    logprobs: Any = None
    index: int = 0


class Thought(Struct, tag=True, frozen=True):
    """New text of the model's reasoning, which is not part of its answer.

    Args:
        text: never cut within a character.
        index: which of the request's choices it belongs to.
    """

    text: str
    index: int = 0


class Call(Struct, tag=True, frozen=True):
    """A piece of a tool call.

    Args:
        number: which of the choice's calls it belongs to, from 0.
        arguments: more of the text of its arguments; those of all pieces together are JSON.
        id: of the call; only its first piece has it, and the next one.
        name: of the function that is called.
        index: which of the request's choices it belongs to.
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
        index: which of the request's choices it belongs to.
        stop: the stop text that ended it, from engines that say so.
    """

    reason: str
    index: int = 0
    stop: str | None = None


class Usage(Struct, tag=True, frozen=True):
    """What the generation took, in tokens; reasoning is part of the completion."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


Event = Progress | Delta | Thought | Call | Finish | Usage


def copied(events: list[Event], copies: int) -> list[Event]:
    """Tell what happened to one choice as if it had happened to several that are alike."""
    told: list[Event] = []
    for event in events:
        if isinstance(event, Usage):
            tokens = event.completion_tokens * copies
            told.append(Usage(event.prompt_tokens, tokens, event.cached_tokens))
        elif isinstance(event, Progress):
            told.append(event)
        else:
            told += (replace(event, index=index) for index in range(copies))
    return told
