"""What has to be reached, what was expected, and whether it was reached."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

RATIO = 0.98
ADDED_MS = 3.0
TRANSLATION_MS = 1.0
WORKER_MB = 250.0
HEALTH_P99_MS = 50.0

# README.md says why, which of these were written before a run, and why some are far off.
EXPECTED_RATIO = {1: "0.99", 16: "0.99", 64: "0.99"}
EXPECTED_ADDED = {1: "2 ms", 16: "3 ms", 64: "3 ms"}
EXPECTED = {
    "memory of the worker after the tax": "60 MB",
    "relay, plain requests/s: direct": "10,000",
    "relay, plain requests/s: nginx": "10,000",
    "relay, plain requests/s: gateway": "700",
    "relay, streamed chunks/s: direct": "100,000",
    "relay, streamed chunks/s: nginx": "100,000",
    "relay, streamed chunks/s: gateway": "10,000",
    "burst of 64 at once: added p50 to first token": "32 ms",
    "/health p99 while the streams are opened": "50 ms",
    "/health p99, all streams advance at once": "100 ms",
    "validation and translation, with a tool: p50": "0.5 ms",
    "worker CPU per chunk, one chunk a read": "100 us",
}


@dataclass(frozen=True)
class Check:
    """One line of the verdict.

    Args:
        what: what was measured.
        expected: what we thought it would be; README.md says when that was written.
        target: what it must be; empty when it is only told.
        seen: what it was.
        ok: whether the target was met; None without one.
    """

    what: str
    expected: str
    target: str
    seen: str
    ok: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        return asdict(self)


def ratio(streams: int, seen: float, low: float, high: float) -> Check:
    """Judge the throughput through the gateway over the bare engine's."""
    return Check(
        f"throughput, {streams} stream{'s' * (streams > 1)}: through / bare",
        EXPECTED_RATIO[streams],
        f">= {RATIO}",
        f"{seen:.3f} ({low:.3f} to {high:.3f})",
        seen >= RATIO,
    )


def added(streams: int, p50: float, p95: float) -> Check:
    """Judge the time that the gateway adds to the first token."""
    return Check(
        f"time to first token, {streams} stream{'s' * (streams > 1)}: added p50 (p95)",
        EXPECTED_ADDED[streams],
        f"p50 <= {ADDED_MS:g} ms",
        f"{p50:.1f} ms ({p95:.1f} ms)",
        p50 <= ADDED_MS,
    )


def told(what: str, seen: str) -> Check:
    """Tell a figure that has no target."""
    return Check(what, EXPECTED.get(what, ""), "", seen)


def translation(p50: float) -> Check:
    """Judge the time it takes to check a plain chat request and to write it for an engine."""
    return Check(
        "validation and translation, a plain chat of 10 messages: p50",
        "0.2 ms",
        f"<= {TRANSLATION_MS:g} ms",
        f"{p50:.2f} ms",
        p50 <= TRANSLATION_MS,
    )


def open_streams(streams: int, failed: int) -> Check:
    """Judge whether all open streams came to their end."""
    what = f"{streams:,} open streams on one worker: failed"
    return Check(what, "0", "0", str(failed), failed == 0)


def memory(streams: int, rss: float, pss: float) -> Check:
    """Judge what the worker weighed."""
    what = f"{streams:,} open streams: memory of the worker"
    seen = f"{rss:.0f} MB (its share {pss:.0f} MB)"
    return Check(what, "150 MB", f"< {WORKER_MB:g} MB", seen, rss < WORKER_MB)


def health(p99: float, largest: float, failures: int) -> Check:
    """Judge how fast /health answered meanwhile."""
    return Check(
        "/health p99 meanwhile (largest)",
        "15 ms",
        f"< {HEALTH_P99_MS:g} ms",
        f"{p99:.1f} ms ({largest:.1f} ms)" + f", {failures} failed" * bool(failures),
        p99 < HEALTH_P99_MS and not failures,
    )


def refusals(polite: int, tries: int) -> Check:
    """Judge what a request above the connection limit gets."""
    what = "at the connection limit: 503 with Retry-After"
    return Check(what, "all", "all", f"{polite} of {tries}", polite == tries)


def health_at_limit(answered: int, tries: int) -> Check:
    """Judge whether /health answers at the connection limit."""
    what = "at the connection limit: /health answers"
    return Check(what, "all", "all", f"{answered} of {tries}", answered == tries)
