"""Statistics of a benchmark run: throughput, TTFT, inter-token latency, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class RequestResult:
    """Result of one streamed request. Times are seconds of the monotonic clock.

    Args:
        began: time before connecting.
        first: time of the first chunk with text; None if there was none.
        last: time of the last chunk with text.
        ended: time when the request ended.
        gaps: seconds between consecutive chunks.
        tokens: completion tokens as reported in `usage`; the number of chunks without `usage`.
        prompt_tokens: prompt tokens as reported in `usage`.
        error: reason of a failure; empty for none.
        cut: whether the client cancelled the request because the time was up.
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
class Percentiles:
    """Median and 95th percentile of durations, in milliseconds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class RunStats:
    """Statistics of one run. The field names are those of `vllm-obtain bench --json`.

    Args:
        streams: number of concurrent streams.
        answers: completed requests.
        failed: failed requests.
        cut: requests cancelled because the time was up. Their tokens count towards throughput.
        seconds: duration of the run.
        tokens_per_second: throughput of all streams together.
        tokens_per_second_of_one: median throughput of a single stream after its first token.
        first_token_ms: time to first token (TTFT); None without any token.
        between_tokens_ms: inter-token latency (ITL); None without any.
        prompt_tokens: average prompt tokens of completed requests.
        answer_tokens: average completion tokens of completed requests.
        errors: number of failures by reason.
    """

    streams: int
    answers: int
    failed: int
    cut: int
    seconds: float
    tokens_per_second: float
    tokens_per_second_of_one: float | None
    first_token_ms: Percentiles | None
    between_tokens_ms: Percentiles | None
    prompt_tokens: float
    answer_tokens: float
    errors: dict[str, int]


def summarize(streams: int, results: Sequence[RequestResult]) -> RunStats:
    """Compute the statistics of a run.

    Args:
        streams: number of concurrent streams.
        results: results of the requests; at least one.
    """
    completed = [result for result in results if not result.error and not result.cut]
    succeeded = [result for result in results if not result.error]
    seconds = max(result.ended for result in results) - min(result.began for result in results)
    rates = [_decode_rate(result) for result in completed if result.gaps and result.tokens > 1]
    tokens = sum(result.tokens for result in succeeded)
    return RunStats(
        streams=streams,
        answers=len(completed),
        failed=len(results) - len(succeeded),
        cut=sum(result.cut for result in succeeded),
        seconds=round(seconds, 3),
        tokens_per_second=round(tokens / max(seconds, 1e-9), 1),
        tokens_per_second_of_one=round(percentile(rates, 0.5), 1) if rates else None,
        first_token_ms=_percentiles(
            [result.first - result.began for result in succeeded if result.first]
        ),
        between_tokens_ms=_percentiles([gap for result in succeeded for gap in result.gaps]),
        prompt_tokens=_mean([result.prompt_tokens for result in completed]),
        answer_tokens=_mean([result.tokens for result in completed]),
        errors=dict(Counter(result.error for result in results if result.error).most_common()),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile.

    Args:
        values: any order; at least one.
        share: between 0 and 1.
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _decode_rate(result: RequestResult) -> float:
    """Tokens per second after the first token."""
    return (result.tokens - 1) / max(sum(result.gaps), 1e-9)


def _percentiles(seconds: Sequence[float]) -> Percentiles | None:
    if not seconds:
        return None
    values = (percentile(seconds, share) for share in (0.5, 0.95))
    return Percentiles(*(round(1000 * value, 2) for value in values))


def _mean(values: Sequence[int]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0
