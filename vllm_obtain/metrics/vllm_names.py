"""This service's metrics under vLLM's names, so that dashboards made for vLLM work.

Counters are copied from `registry` at each scrape. Histograms are counted here and not by
`prometheus_client.Histogram`, which cannot count one value n times, as the inter-token latency of n
tokens requires.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import Counter
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from vllm_obtain.control.messages import EngineStatus, ReleaseLease

_LABELS = ["model_name", "engine"]
_TTFT_BOUNDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40,
    80, 160, 640, 2560,
)  # fmt: skip
_LATENCY_BOUNDS = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip
_TOKEN_BOUNDS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
_LENGTH_BOUNDS = tuple(mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5))
_HISTOGRAMS = {
    "time_to_first_token_seconds": ("Seconds from arrival to the first token.", _TTFT_BOUNDS),
    "e2e_request_latency_seconds": ("Seconds from arrival to the last token.", _LATENCY_BOUNDS),
    "request_queue_time_seconds": ("Seconds in the queue.", _LATENCY_BOUNDS),
    "request_prefill_time_seconds": ("Seconds from admission to the first token.", _LATENCY_BOUNDS),
    "request_decode_time_seconds": ("Seconds from the first token to the last.", _LATENCY_BOUNDS),
    "request_inference_time_seconds": (
        "Seconds from admission to the last token.",
        _LATENCY_BOUNDS,
    ),
    "inter_token_latency_seconds": (
        "Mean seconds between tokens of a request, per token.",
        _TOKEN_BOUNDS,
    ),
    "request_time_per_output_token_seconds": (
        "Mean seconds between tokens of a request.",
        _TOKEN_BOUNDS,
    ),
    "request_prompt_tokens": ("Prompt tokens of a request.", _LENGTH_BOUNDS),
    "request_generation_tokens": ("Completion tokens of a request.", _LENGTH_BOUNDS),
}
# vLLM's `finished_reason` for our outcomes.
_REASONS = {
    "stop": "stop",
    "tool_calls": "stop",
    "length": "length",
    "cancelled": "abort",
    "error": "error",
}


class HistogramCounts:
    """Counts of values per bucket."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, `times` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add the counts to a family as one series."""
        buckets, below = [], 0
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for name, count in zip(names, self._counts, strict=True):
            below += count
            buckets.append((name, float(below)))
        family.add_metric(labels, buckets, self._sum)


class VllmCollector(Collector):
    """vLLM's counters and histograms of each model on each engine.

    Args:
        outcomes: counter of requests by model, engine and outcome.
        prompt: counter of prompt tokens by model and engine.
        cached: counter of prompt tokens from the prefix cache by model and engine.
        generated: counter of completion tokens by model and engine.
    """

    def __init__(
        self, outcomes: Counter, prompt: Counter, cached: Counter, generated: Counter
    ) -> None:
        self._outcomes = outcomes
        self._counters = {
            "prompt_tokens": ("Prompt tokens processed.", prompt),
            "generation_tokens": ("Tokens generated.", generated),
            "prefix_cache_queries": ("Prompt tokens looked up in the prefix cache.", prompt),
            "prefix_cache_hits": ("Prompt tokens found in the prefix cache.", cached),
        }
        self._histograms: dict[tuple[str, str], dict[str, HistogramCounts]] = {}

    def count_release(self, model: str, engine: str, release: ReleaseLease, waited: float) -> None:
        """Count a completed request. One without a first token is not counted.

        Args:
            model: the model's name.
            engine: the engine's name.
            release: token counts and times of the request.
            waited: seconds from acquiring to admission.
        """
        if release.first_token is None:
            return
        histograms = self._of(model, engine)
        latency = release.first_token + release.generating
        histograms["time_to_first_token_seconds"].add(release.first_token)
        histograms["e2e_request_latency_seconds"].add(latency)
        histograms["request_queue_time_seconds"].add(waited)
        histograms["request_prefill_time_seconds"].add(max(0.0, release.first_token - waited))
        histograms["request_decode_time_seconds"].add(release.generating)
        histograms["request_inference_time_seconds"].add(max(0.0, latency - waited))
        histograms["request_prompt_tokens"].add(release.prompt_tokens)
        histograms["request_generation_tokens"].add(release.completion_tokens)
        if (intervals := release.completion_tokens - 1) > 0:
            mean = release.generating / intervals
            histograms["inter_token_latency_seconds"].add(mean, intervals)
            histograms["request_time_per_output_token_seconds"].add(mean)

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics for prometheus-client."""
        for name, (text, counter) in self._counters.items():
            family = CounterMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            for labels, value in _values(counter):
                family.add_metric(labels[:2], value)
            yield family
        yield self._request_success()
        for name, (text, _) in _HISTOGRAMS.items():
            histogram = HistogramMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            for key, found in self._histograms.items():
                found[name].add_to(histogram, key)
            yield histogram

    def _request_success(self) -> Metric:
        family = CounterMetricFamily(
            "vllm:request_success",
            "Requests by finish reason.",
            labels=[*_LABELS, "finished_reason"],
        )
        totals: dict[tuple[str, ...], float] = {}
        for (model, engine, outcome), value in _values(self._outcomes):
            labels = model, engine, _REASONS.get(outcome, outcome)
            totals[labels] = totals.get(labels, 0.0) + value
        for key, value in totals.items():
            family.add_metric(key, value)
        return family

    def _of(self, model: str, engine: str) -> dict[str, HistogramCounts]:
        found = self._histograms.get((model, engine))
        if found is None:
            found = {name: HistogramCounts(bounds) for name, (_, bounds) in _HISTOGRAMS.items()}
            self._histograms[model, engine] = found
        return found


def gauges(engines: Sequence[EngineStatus]) -> Iterable[Metric]:
    """Yield vLLM's gauges: running and queued requests, and KV cache usage."""
    sums: dict[tuple[str, str], list[int]] = {}
    for engine in engines:
        found = sums.setdefault((engine.model, engine.engine), [0, 0, 0, 0])
        now = (
            engine.in_flight,
            engine.queue,
            engine.tokens_reserved,
            engine.tokens_pool or 0,
        )
        for index, value in enumerate(now):
            found[index] += value
    running = _gauge("num_requests_running", "Requests that the engine is processing.")
    waiting = _gauge("num_requests_waiting", "Requests in the queue.")
    usage = _gauge("kv_cache_usage_perc", "Reserved share of the KV cache, from 0 to 1.")
    for labels, (runs, waits, reserved, pool) in sums.items():
        running.add_metric(labels, runs)
        waiting.add_metric(labels, waits)
        if pool:
            usage.add_metric(labels, min(1.0, reserved / pool))
    return running, waiting, usage


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"vllm:{name}", text, labels=_LABELS)


def _values(counter: Counter) -> Iterable[tuple[tuple[str, ...], float]]:
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                yield tuple(sample.labels.values()), sample.value
