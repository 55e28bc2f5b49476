"""All numbers of a service. They live in the supervisor, so recycled workers lose none.

Names follow Prometheus' conventions: base units, `_total` for counters.
"""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Iterable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vllm_obtain import vllm_metrics
from vllm_obtain.messages import EngineStatus, Release, Served

PREFIX = "vllm_obtain"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OF_ENGINES = (
    "in_flight",
    "queue",
    "memory_bytes",
    "tokens_reserved",
    "tokens_pool",
    "healthy",
    "reserved_bytes",
    "quiet_seconds",
    "load_seconds",
)
_OUTCOMES = ("stop", "length", "cancelled", "error")
_RATES = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)


class Numbers:
    """The counters of one service, from its supervisor's start."""

    def __init__(self) -> None:
        # A second series per counter that says when it began; nobody asks for it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        serving = ["model", "engine"]
        self._requests = self._counter("http_requests", "HTTP requests.", "route method status")
        self._seconds = self._histogram(
            "http_request_duration_seconds", "From arrival to last byte.", "route status", _SECONDS
        )
        self._outcomes = self._counter(
            "inference_requests", "Requests an engine answered.", "model engine outcome"
        )
        self._prompt = self._counter("prompt_tokens", "Prompt tokens read.", *serving)
        self._cached = self._counter(
            "prompt_tokens_cached", "Prompt tokens the engine had already.", *serving
        )
        self._generated = self._counter("generation_tokens", "Tokens generated.", *serving)
        self._first = self._histogram(
            "time_to_first_token_seconds", "From arrival to first token.", "model engine", _SECONDS
        )
        self._rate = self._histogram(
            "generation_tokens_per_second", "Speed of one request.", "model engine", _RATES
        )
        self._restarts = self._counter("engine_restarts", "Engines that ended alone.", *serving)
        self._stalls = self._counter("engine_stalls", "Engines that had to be ended.", *serving)
        self._handovers = self._counter(
            "engine_handovers", "Models that changed their engine.", "model from to cause"
        )
        self._loads = self._histogram(
            "model_load_seconds", "From start to first token.", "model engine", _SECONDS
        )
        self._cache = self._counter("response_cache_requests", "Cacheable requests.", "result")
        self._spans_lost = self._counter("trace_spans_lost", "Spans no collector took.")
        self._vllm = vllm_metrics.VllmNumbers(
            self._outcomes, self._prompt, self._cached, self._generated
        )
        self.registry.register(self._vllm)

    def served(self, requests: Iterable[Served], spans_lost: int = 0) -> None:
        """Count answered HTTP requests, and spans of theirs that did not reach their collector."""
        self._spans_lost.inc(spans_lost)
        for request in requests:
            status = str(request.status)
            self._requests.labels(request.route, request.method, status).inc()
            self._seconds.labels(request.route, status).observe(request.seconds)
            if request.cache:
                self._cache.labels(request.cache).inc()

    def released(self, model: str, engine: str, release: Release, waited: float = 0.0) -> None:
        """Count what an engine did for one request.

        Args:
            model: its name.
            engine: whose place the request had.
            release: what it came to.
            waited: seconds until it had its place.
        """
        self._vllm.released(model, engine, release, waited)
        self._outcomes.labels(model, engine, release.outcome).inc()
        self._prompt.labels(model, engine).inc(release.prompt_tokens)
        self._cached.labels(model, engine).inc(release.cached_tokens)
        self._generated.labels(model, engine).inc(release.completion_tokens)
        if release.first_token is not None:
            self._first.labels(model, engine).observe(release.first_token)
        if release.generating > 0 and release.completion_tokens > 1:
            rate = (release.completion_tokens - 1) / release.generating
            self._rate.labels(model, engine).observe(rate)

    def loaded(self, model: str, engine: str, seconds: float) -> None:
        """Count a load that succeeded."""
        self._loads.labels(model, engine).observe(seconds)
        # Prometheus sees no increase in a series that begins with 1: these begin with 0.
        for outcome in _OUTCOMES:
            self._outcomes.labels(model, engine, outcome)
        for counter in (self._prompt, self._cached, self._generated, self._restarts, self._stalls):
            counter.labels(model, engine)

    def crashed(self, model: str, engine: str) -> None:
        """Count an engine that ended by itself."""
        self._restarts.labels(model, engine).inc()

    def stalled(self, model: str, engine: str) -> None:
        """Count an engine that was ended since it made no step, or took too much memory."""
        self._stalls.labels(model, engine).inc()

    def handed_over(self, model: str, source: str, to: str, cause: str) -> None:
        """Count a model that changed its engine."""
        self._handovers.labels(model, source, to, cause).inc()

    def text(self, gauges: Gauges) -> str:
        """Write everything in Prometheus' text format.

        Args:
            gauges: what is true at this moment.
        """
        now = CollectorRegistry()
        now.register(gauges)
        return (generate_latest(self.registry) + generate_latest(now)).decode()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, _names(labels), registry=self.registry)

    def _histogram(self, name: str, text: str, labels: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(
            f"{PREFIX}_{name}", text, labels.split(), registry=self.registry, buckets=buckets
        )


class Gauges(Collector):
    """What is true at the moment of a scrape."""

    def __init__(
        self,
        engines: Sequence[EngineStatus],
        system: dict[str, float],
        uptime: float,
        in_flight: int,
        cache: dict[str, int],
        memory: dict[str, int],
    ) -> None:
        self._engines = engines
        self._plain = {
            "supervisor_uptime_seconds": uptime,
            "requests_in_flight": in_flight,
            **{f"response_cache_{name}": float(value) for name, value in cache.items()},
            **{f"memory_{name}": float(value) for name, value in memory.items()},
            **{f"system_{name}": value for name, value in system.items()},
        }

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges, as prometheus-client asks for them."""
        for name, value in self._plain.items():
            yield GaugeMetricFamily(f"{PREFIX}_{name}", name.replace("_", " "), value=value)
        for field in _OF_ENGINES:
            family = GaugeMetricFamily(
                f"{PREFIX}_engine_{field}",
                f"Of one engine: {field.replace('_', ' ')}.",
                labels=["model", "engine"],
            )
            # A model may have two processes on one engine for a while: moved away and back.
            values: dict[tuple[str, str], float] = {}
            for engine in self._engines:
                if (value := getattr(engine, field)) is not None:
                    labels = engine.model, engine.engine
                    values[labels] = values.get(labels, 0) + value
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family
        yield self._states()
        yield from vllm_metrics.gauges(self._engines)

    def _states(self) -> Metric:
        family = GaugeMetricFamily(
            f"{PREFIX}_engines", "Engines by state.", labels=["model", "engine", "state"]
        )
        found = Counted((each.model, each.engine, each.state) for each in self._engines)
        for labels, value in found.items():
            family.add_metric(labels, value)
        return family


def _names(labels: Sequence[str]) -> list[str]:
    return [name for label in labels for name in label.split()]
