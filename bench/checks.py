"""Targets, expectations and verdicts of the gateway benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

RATIO = 0.98
ADDED_MS = 3.0
TRANSLATION_MS = 1.0
WORKER_MB = 250.0
HEALTH_P99_MS = 50.0

# README.md explains them, which were written before a run, and why some are far off.
EXPECTED_RATIO = {1: "0.99", 16: "0.99", 64: "0.99"}
EXPECTED_ADDED = {1: "2 ms", 16: "3 ms", 64: "3 ms"}
EXPECTED = {
    "worker memory after the overhead measurement": "60 MB",
    "relay, requests/s without streaming: direct": "10,000",
    "relay, requests/s without streaming: nginx": "10,000",
    "relay, requests/s without streaming: gateway": "700",
    "relay, streamed chunks/s: direct": "100,000",
    "relay, streamed chunks/s: nginx": "100,000",
    "relay, streamed chunks/s: gateway": "10,000",
    "burst of 64 requests: added TTFT p50": "32 ms",
    "/health p99 while streams connect": "50 ms",
    "/health p99 when all streams advance at once": "100 ms",
    "validation and translation, with a tool: p50": "0.5 ms",
    "worker CPU per chunk, one chunk per read": "100 us",
}


@dataclass(frozen=True)
class Check:
    """One row of the results table.

    Args:
        metric: what was measured.
        expected: the expectation before the run; README.md describes when it was written.
        target: required value; empty for figures without a target.
        result: measured value.
        ok: whether the target was met; None without a target.
    """

    metric: str
    expected: str
    target: str
    result: str
    ok: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Convert it for the JSON file."""
        return asdict(self)


def ratio(streams: int, median: float, low: float, high: float) -> Check:
    """Check the throughput through the gateway relative to direct requests."""
    return Check(
        f"throughput ratio, gateway vs. direct, {_count(streams)}",
        EXPECTED_RATIO[streams],
        f">= {RATIO}",
        f"{median:.3f} ({low:.3f} to {high:.3f})",
        median >= RATIO,
    )


def check_added_ttft(streams: int, p50: float, p95: float) -> Check:
    """Check the TTFT that the gateway adds."""
    return Check(
        f"added TTFT, {_count(streams)}: p50 (p95)",
        EXPECTED_ADDED[streams],
        f"p50 <= {ADDED_MS:g} ms",
        f"{p50:.1f} ms ({p95:.1f} ms)",
        p50 <= ADDED_MS,
    )


def figure(metric: str, result: str) -> Check:
    """Report a figure that has no target."""
    return Check(metric, EXPECTED.get(metric, ""), "", result)


def translation(p50: float) -> Check:
    """Check the time for validating a chat request and translating it for an engine."""
    return Check(
        "validation and translation, chat of 10 messages: p50",
        "0.2 ms",
        f"<= {TRANSLATION_MS:g} ms",
        f"{p50:.2f} ms",
        p50 <= TRANSLATION_MS,
    )


def open_streams(streams: int, failed: int) -> Check:
    """Check that all open streams completed."""
    metric = f"{streams:,} open streams on one worker: failed"
    return Check(metric, "0", "0", str(failed), failed == 0)


def memory(streams: int, rss: float, pss: float) -> Check:
    """Check the memory of the worker with open streams."""
    metric = f"{streams:,} open streams: worker memory"
    result = f"{rss:.0f} MB (PSS {pss:.0f} MB)"
    return Check(metric, "150 MB", f"< {WORKER_MB:g} MB", result, rss < WORKER_MB)


def health(streams: int, p99: float, maximum: float, failures: int) -> Check:
    """Check the latency of /health with open streams."""
    return Check(
        f"{streams:,} open streams: /health p99 (max)",
        "15 ms",
        f"< {HEALTH_P99_MS:g} ms",
        f"{p99:.1f} ms ({maximum:.1f} ms)" + f", {failures} failed" * bool(failures),
        p99 < HEALTH_P99_MS and not failures,
    )


def rejections(correct: int, attempts: int) -> Check:
    """Check the responses to requests above the connection limit."""
    metric = "at the connection limit: 503 with Retry-After"
    return Check(metric, "all", "all", f"{correct} of {attempts}", correct == attempts)


def health_at_limit(responses: int, attempts: int) -> Check:
    """Check that /health responds at the connection limit."""
    metric = "at the connection limit: /health responds"
    return Check(metric, "all", "all", f"{responses} of {attempts}", responses == attempts)


def _count(streams: int) -> str:
    return f"{streams} stream{'s' * (streams > 1)}"
