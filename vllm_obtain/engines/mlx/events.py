"""What the generation thread says about a request, and HTTP passes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """So many of `total` prompt tokens are done; `cached` of them needed no work."""

    total: int
    processed: int
    cached: int


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of a choice, and `logprobs.content` entries of its tokens if they were asked for."""

    text: str
    logprobs: list[dict[str, Any]] | None
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a choice: `stop` or `length`, its tokens, and the stop text that ended it."""

    reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    choice: int = 0
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of the whole request in the middle of an answer, and why."""

    message: str


Event = Progress | Delta | Finish | Failure
