"""From answers to figures: throughput, first tokens, pauses, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Answer:
    """What became of one streamed request; times are of the monotonic clock.

    Args:
        began: just before connecting.
        first: when its first text came, None if none did.
        last: when its last text came.
        ended: when it was over.
        gaps: seconds between pieces of text that follow each other.
        tokens: of the answer, by its own usage; else the pieces of text.
        prompt_tokens: by its own usage.
        error: why it failed, empty when it did not.
        cut: whether it was ended from here, since time was up.
    """

    began: float
    first: float | None = None
    last: float = 0.0
    ended: float = 0.0
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0
    error: str = ""
    cut: bool = False


@dataclass(frozen=True)
class Spread:
    """Median and 95th percentile of durations, in milliseconds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Figures:
    """What so many streams at once came to.

    Args:
        streams: how many ran at once.
        answers: that came whole.
        failed: requests that did not.
        cut: answers that time cut off; their tokens count, they are no failures.
        seconds: from the first request to the last end.
        tokens_per_second: of all streams together.
        tokens_per_second_of_one: of one stream from its first token on, the median.
        first_token_ms: from the request to the first text, None when none came.
        between_tokens_ms: between pieces of text, None when there were none.
        prompt_tokens: of a prompt, on average.
        answer_tokens: of a whole answer, on average.
        errors: why requests failed, and how often.
    """

    streams: int
    answers: int
    failed: int
    cut: int
    seconds: float
    tokens_per_second: float
    tokens_per_second_of_one: float | None
    first_token_ms: Spread | None
    between_tokens_ms: Spread | None
    prompt_tokens: float
    answer_tokens: float
    errors: dict[str, int]


def figures(streams: int, answers: Sequence[Answer]) -> Figures:
    """Sum up.

    Args:
        streams: how many ran at once.
        answers: what became of the requests; one at least.
    """
    whole = [each for each in answers if not each.error and not each.cut]
    told = [each for each in answers if not each.error]
    seconds = max(each.ended for each in answers) - min(each.began for each in answers)
    paces = [_pace(each) for each in whole if each.gaps and each.tokens > 1]
    return Figures(
        streams=streams,
        answers=len(whole),
        failed=len(answers) - len(told),
        cut=sum(each.cut for each in told),
        seconds=round(seconds, 3),
        tokens_per_second=round(sum(each.tokens for each in told) / max(seconds, 1e-9), 1),
        tokens_per_second_of_one=round(percentile(paces, 0.5), 1) if paces else None,
        first_token_ms=_spread([each.first - each.began for each in told if each.first]),
        between_tokens_ms=_spread([gap for each in told for gap in each.gaps]),
        prompt_tokens=_mean([each.prompt_tokens for each in whole]),
        answer_tokens=_mean([each.tokens for each in whole]),
        errors=dict(Counter(each.error for each in answers if each.error).most_common()),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _pace(answer: Answer) -> float:
    """Tokens per second from the first token on."""
    return (answer.tokens - 1) / max(sum(answer.gaps), 1e-9)


def _spread(seconds: Sequence[float]) -> Spread | None:
    if not seconds:
        return None
    shares = (percentile(seconds, share) for share in (0.5, 0.95))
    return Spread(*(round(1000 * value, 2) for value in shares))


def _mean(values: Sequence[int]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0
