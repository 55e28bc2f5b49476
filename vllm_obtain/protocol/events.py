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


class Finish(Struct, tag=True, frozen=True):
    """The end of a choice: `stop` or `length`."""

    reason: str
    index: int = 0


class Usage(Struct, tag=True, frozen=True):
    """What the generation took, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


Event = Progress | Delta | Finish | Usage


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
