"""Events that the generation thread sends to the HTTP thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of the prefill: `processed` of `total` tokens, `cached` of them from the cache."""

    total: int
    processed: int
    cached: int


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of a choice, and its `logprobs.content` entries if requested."""

    text: str
    logprobs: list[dict[str, Any]] | None
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a choice: reason (`stop`, `length`), token counts, and the stop sequence."""

    reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    choice: int = 0
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of the request with an error."""

    message: str


Event = Progress | Delta | Finish | Failure
