"""All metrics of a service. The supervisor keeps them, so recycled workers lose none.

Names follow Prometheus conventions: base units, and `_total` for counters.
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

from vllm_obtain.control.messages import EngineStatus, ReleaseLease, RequestRecord
from vllm_obtain.metrics import vllm_names

PREFIX = "vllm_obtain"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ENGINE_GAUGES = {
    "in_flight": "Requests that the engine is processing.",
    "queue": "Requests in the queue of the model.",
    "memory_bytes": "Memory usage of the engine in bytes.",
    "tokens_reserved": "KV cache tokens reserved by requests.",
    "tokens_pool": "Capacity of the KV cache in tokens.",
    "healthy": "1 if the engine makes progress while it has work, otherwise 0.",
    "reserved_bytes": "Estimated memory of the engine in bytes, reserved before its start.",
    "quiet_seconds": "Seconds without progress while the engine has work.",
    "load_seconds": "Seconds from the start of the engine process to its first token.",
}
_SERVICE_GAUGES = {
    "supervisor_uptime_seconds": "Seconds since the supervisor started.",
    "requests_in_flight": "Running and queued requests of all workers.",
    "response_cache_bytes": "Size of the response cache in bytes.",
    "response_cache_entries": "Responses in the response cache.",
    "memory_limit_bytes": "Memory budget of all engines in bytes.",
    "memory_reserved_bytes": "Memory reserved for engines in bytes.",
    "system_cpu_percent": "CPU usage of the machine in percent.",
    "system_disk_free_bytes": "Free space on the disk of the models in bytes.",
    "system_disk_total_bytes": "Size of the disk of the models in bytes.",
    "system_memory_available_bytes": "Available memory of the machine in bytes.",
    "system_memory_total_bytes": "Memory of the machine in bytes.",
    "system_memory_used_bytes": "Used memory of the machine in bytes.",
}
_OUTCOMES = ("stop", "length", "cancelled", "error")
_RATES = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)


class MetricsRegistry:
    """The counters and histograms of one service since its supervisor started."""

    def __init__(self) -> None:
        # Avoids a second series per counter with its creation time.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        serving = ["model", "engine"]
        self._requests = self._counter(
            "http_requests", "HTTP requests completed.", "route method status"
        )
        self._seconds = self._histogram(
            "http_request_duration_seconds",
            "Seconds from a request's arrival to the last byte of its response.",
            "route status",
            _SECONDS,
        )
        self._outcomes = self._counter(
            "inference_requests", "Requests that an engine has processed.", "model engine outcome"
        )
        self._prompt = self._counter("prompt_tokens", "Prompt tokens processed.", *serving)
        self._cached = self._counter(
            "prompt_tokens_cached", "Prompt tokens taken from the prefix cache.", *serving
        )
        self._generated = self._counter("generation_tokens", "Tokens generated.", *serving)
        self._ttft = self._histogram(
            "time_to_first_token_seconds",
            "Seconds from a request's arrival to its first token.",
            "model engine",
            _SECONDS,
        )
        self._rate = self._histogram(
            "generation_tokens_per_second",
            "Decode speed of one request, in tokens per second.",
            "model engine",
            _RATES,
        )
        self._restarts = self._counter(
            "engine_restarts", "Engine processes that ended unexpectedly.", *serving
        )
        self._stalls = self._counter(
            "engine_stalls",
            "Engine processes ended because of a stall or their memory use.",
            *serving,
        )
        self._switches = self._counter(
            "engine_handovers", "Engine switches and failovers.", "model from to cause"
        )
        self._loads = self._histogram(
            "model_load_seconds",
            "Seconds from the start of an engine process to its first token.",
            "model engine",
            _SECONDS,
        )
        self._cache = self._counter(
            "response_cache_requests", "Requests that can use the response cache.", "result"
        )
        self._violations = self._counter(
            "tool_argument_violations",
            "Violations of JSON Schema keywords that the grammar of a tool call did not enforce.",
            "keyword",
        )
        self._spans_lost = self._counter("trace_spans_lost", "Spans that no collector received.")
        self._vllm = vllm_names.VllmCollector(
            self._outcomes, self._prompt, self._cached, self._generated
        )
        self.registry.register(self._vllm)

    def count_requests(self, requests: Iterable[RequestRecord], spans_lost: int = 0) -> None:
        """Count completed HTTP requests, and trace spans that did not reach the collector."""
        self._spans_lost.inc(spans_lost)
        for request in requests:
            status = str(request.status)
            self._requests.labels(request.route, request.method, status).inc()
            self._seconds.labels(request.route, status).observe(request.seconds)
            if request.cache:
                self._cache.labels(request.cache).inc()
            for keyword in request.violations:
                self._violations.labels(keyword).inc()

    def count_release(
        self, model: str, engine: str, release: ReleaseLease, waited: float = 0.0
    ) -> None:
        """Count the work of an engine for one request.

        Args:
            model: the model's name.
            engine: the engine's name.
            release: token counts and times of the request.
            waited: seconds from acquiring to admission.
        """
        self._vllm.count_release(model, engine, release, waited)
        self._outcomes.labels(model, engine, release.outcome).inc()
        self._prompt.labels(model, engine).inc(release.prompt_tokens)
        self._cached.labels(model, engine).inc(release.cached_tokens)
        self._generated.labels(model, engine).inc(release.completion_tokens)
        if release.first_token is not None:
            self._ttft.labels(model, engine).observe(release.first_token)
        if release.generating > 0 and release.completion_tokens > 1:
            rate = (release.completion_tokens - 1) / release.generating
            self._rate.labels(model, engine).observe(rate)

    def count_load(self, model: str, engine: str, seconds: float) -> None:
        self._loads.labels(model, engine).observe(seconds)
        # Prometheus sees no increase in a series that starts at 1, so all series start at 0.
        for outcome in _OUTCOMES:
            self._outcomes.labels(model, engine, outcome)
        for counter in (self._prompt, self._cached, self._generated, self._restarts, self._stalls):
            counter.labels(model, engine)

    def count_crash(self, model: str, engine: str) -> None:
        """Count an engine process that ended unexpectedly."""
        self._restarts.labels(model, engine).inc()

    def count_stall(self, model: str, engine: str) -> None:
        """Count an engine process that was ended because of a stall or its memory use."""
        self._stalls.labels(model, engine).inc()

    def count_switch(self, model: str, source: str, to: str, cause: str) -> None:
        self._switches.labels(model, source, to, cause).inc()

    def text(self, gauges: GaugeCollector) -> str:
        """Render all metrics in the Prometheus text format.

        Args:
            gauges: the gauges to add.
        """
        now = CollectorRegistry()
        now.register(gauges)
        return (generate_latest(self.registry) + generate_latest(now)).decode()

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", description, _names(labels), registry=self.registry)

    def _histogram(
        self, name: str, description: str, labels: str, buckets: Sequence[float]
    ) -> Histogram:
        return Histogram(
            f"{PREFIX}_{name}", description, labels.split(), registry=self.registry, buckets=buckets
        )


class GaugeCollector(Collector):
    """Gauges of the state at the time of a scrape."""

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
        self._values = {
            "supervisor_uptime_seconds": uptime,
            "requests_in_flight": in_flight,
            **{f"response_cache_{name}": float(value) for name, value in cache.items()},
            **{f"memory_{name}": float(value) for name, value in memory.items()},
            **{f"system_{name}": value for name, value in system.items()},
        }

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges for prometheus-client."""
        for name, value in self._values.items():
            text = _SERVICE_GAUGES.get(name) or f"{name.replace('_', ' ').capitalize()}."
            yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
        for field, text in _ENGINE_GAUGES.items():
            family = GaugeMetricFamily(f"{PREFIX}_engine_{field}", text, labels=["model", "engine"])
            # A model has two processes on one engine for a while if it was switched away and back.
            values: dict[tuple[str, str], float] = {}
            for engine in self._engines:
                if (value := getattr(engine, field)) is not None:
                    labels = engine.model, engine.engine
                    values[labels] = values.get(labels, 0) + value
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family
        yield self._states()
        yield from vllm_names.gauges(self._engines)

    def _states(self) -> Metric:
        family = GaugeMetricFamily(
            f"{PREFIX}_engines", "Engines by state.", labels=["model", "engine", "state"]
        )
        counts = Counted((each.model, each.engine, each.state) for each in self._engines)
        for labels, value in counts.items():
            family.add_metric(labels, value)
        return family


def _names(labels: Sequence[str]) -> list[str]:
    return [name for label in labels for name in label.split()]
