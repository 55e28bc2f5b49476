"""Our numbers under vLLM's names, so that dashboards made for vLLM show this service too.

Counters are ours, read again when somebody scrapes. vLLM's histograms have bounds of their own, so
those are counted here, in plain lists: a request costs a few microseconds.
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

from vllm_obtain.messages import EngineStatus, Release

_LABELS = ["model_name", "engine"]
_FIRST = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40,
    80, 160, 640, 2560,
)  # fmt: skip
_WHOLE = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip
_TOKEN = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
_LENGTH = tuple(mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5))
_SPREADS = {
    "time_to_first_token_seconds": ("From arrival to first token.", _FIRST),
    "e2e_request_latency_seconds": ("From arrival to last token.", _WHOLE),
    "request_queue_time_seconds": ("Until there was a place on the engine.", _WHOLE),
    "request_prefill_time_seconds": ("From the place to the first token.", _WHOLE),
    "request_decode_time_seconds": ("From the first token to the last.", _WHOLE),
    "request_inference_time_seconds": ("From the place to the last token.", _WHOLE),
    "inter_token_latency_seconds": ("Between two tokens, each request's mean.", _TOKEN),
    "request_time_per_output_token_seconds": ("The mean between two tokens.", _TOKEN),
    "request_prompt_tokens": ("Tokens of a prompt.", _LENGTH),
    "request_generation_tokens": ("Tokens of an answer.", _LENGTH),
}
# vLLM's word for how a request ended.
_REASONS = {
    "stop": "stop",
    "tool_calls": "stop",
    "length": "length",
    "cancelled": "abort",
    "error": "error",
}


class Spread:
    """How often values were within which bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def into(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Tell it as one series of a family."""
        told, below = [], 0
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for name, count in zip(names, self._counts, strict=True):
            below += count
            told.append((name, float(below)))
        family.add_metric(labels, told, self._sum)


class VllmNumbers(Collector):
    """What vLLM would count, of each model on each engine.

    Args:
        outcomes: our counter by model, engine and outcome.
        prompt: our counter of prompt tokens by model and engine, and so the next two.
        cached: of those among them that the engine had.
        generated: of tokens generated.
    """

    def __init__(
        self, outcomes: Counter, prompt: Counter, cached: Counter, generated: Counter
    ) -> None:
        self._outcomes = outcomes
        self._plain = {
            "prompt_tokens": ("Prompt tokens read.", prompt),
            "generation_tokens": ("Tokens generated.", generated),
            "prefix_cache_queries": ("Prompt tokens looked for in the cache.", prompt),
            "prefix_cache_hits": ("Prompt tokens found there.", cached),
        }
        self._spreads: dict[tuple[str, str], dict[str, Spread]] = {}

    def released(self, model: str, engine: str, release: Release, waited: float) -> None:
        """Count a request that has ended.

        Args:
            model: its name.
            engine: whose place it had.
            release: what it came to; without a first token there is nothing to time.
            waited: seconds until it had its place.
        """
        if release.first_token is None:
            return
        spreads = self._of(model, engine)
        whole = release.first_token + release.generating
        spreads["time_to_first_token_seconds"].add(release.first_token)
        spreads["e2e_request_latency_seconds"].add(whole)
        spreads["request_queue_time_seconds"].add(waited)
        spreads["request_prefill_time_seconds"].add(max(0.0, release.first_token - waited))
        spreads["request_decode_time_seconds"].add(release.generating)
        spreads["request_inference_time_seconds"].add(max(0.0, whole - waited))
        spreads["request_prompt_tokens"].add(release.prompt_tokens)
        spreads["request_generation_tokens"].add(release.completion_tokens)
        if (pauses := release.completion_tokens - 1) > 0:
            mean = release.generating / pauses
            spreads["inter_token_latency_seconds"].add(mean, pauses)
            spreads["request_time_per_output_token_seconds"].add(mean)

    def collect(self) -> Iterable[Metric]:
        """Yield everything, as prometheus-client asks for it."""
        for name, (text, counter) in self._plain.items():
            family = CounterMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            for labels, value in _values(counter):
                family.add_metric(labels[:2], value)
            yield family
        yield self._ends()
        for name, (text, _) in _SPREADS.items():
            spread = HistogramMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            for key, found in self._spreads.items():
                found[name].into(spread, key)
            yield spread

    def _ends(self) -> Metric:
        family = CounterMetricFamily(
            "vllm:request_success",
            "Requests by how they ended.",
            labels=[*_LABELS, "finished_reason"],
        )
        ends: dict[tuple[str, ...], float] = {}
        for (model, engine, outcome), value in _values(self._outcomes):
            labels = model, engine, _REASONS.get(outcome, outcome)
            ends[labels] = ends.get(labels, 0.0) + value
        for key, value in ends.items():
            family.add_metric(key, value)
        return family

    def _of(self, model: str, engine: str) -> dict[str, Spread]:
        found = self._spreads.get((model, engine))
        if found is None:
            found = {name: Spread(bounds) for name, (_, bounds) in _SPREADS.items()}
            self._spreads[model, engine] = found
        return found


def gauges(engines: Sequence[EngineStatus]) -> Iterable[Metric]:
    """Say what is true now: requests that run and wait, and how full the cache is."""
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
    running = _gauge("num_requests_running", "Requests on the engine.")
    waiting = _gauge("num_requests_waiting", "Requests that wait for a place.")
    usage = _gauge("kv_cache_usage_perc", "Share of the cache that is reserved; 1 is all of it.")
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
