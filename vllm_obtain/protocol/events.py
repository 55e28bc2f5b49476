"""What a generation is made of, whichever engine does it: the currency between relay and routes."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


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
    """

    text: str
    logprobs: Any = None


class Finish(Struct, tag=True, frozen=True):
    """The end of a choice: `stop` or `length`."""

    reason: str


class Usage(Struct, tag=True, frozen=True):
    """What the generation took, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


Event = Progress | Delta | Finish | Usage
