from __future__ import annotations

from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.control.test_messages import ENGINE
from vllm_obtain.control.messages import ReleaseLease, RequestRecord
from vllm_obtain.metrics.registry import PREFIX, GaugeCollector, MetricsRegistry

MODEL = {"model": "m", "engine": "e"}


class Scrape:
    """What a scrape says, and how to ask it."""

    def __init__(self, metrics: MetricsRegistry, **now: Any) -> None:
        gauges = GaugeCollector(
            now.get("engines", []),
            now.get("system", {}),
            now.get("uptime", 1.5),
            now.get("in_flight", 0),
            now.get("cache", {}),
            now.get("memory", {}),
        )
        self.text = metrics.text(gauges)
        self.families = list(text_string_to_metric_families(self.text))

    def value(self, name: str, **labels: str) -> float | None:
        for family in self.families:
            for sample in family.samples:
                if sample.name in (f"{PREFIX}_{name}", name) and sample.labels == labels:
                    return sample.value
        return None


def test_requests() -> None:
    metrics = MetricsRegistry()
    metrics.count_requests(
        [RequestRecord("/a", "GET", 200, 0.02), RequestRecord("/a", "GET", 200, 3.0)]
    )
    metrics.count_requests(
        [RequestRecord("/b", "POST", 503, 1.0, "miss"), RequestRecord("/b", "POST", 200, 0, "hit")]
    )
    scrape = Scrape(metrics)
    assert scrape.value("http_requests_total", route="/a", method="GET", status="200") == 2
    assert scrape.value("http_requests_total", route="/b", method="POST", status="503") == 1
    name = "http_request_duration_seconds"
    assert scrape.value(f"{name}_sum", route="/a", status="200") == pytest.approx(3.02)
    assert scrape.value(f"{name}_bucket", route="/a", status="200", le="0.025") == 1
    assert scrape.value("response_cache_requests_total", result="hit") == 1


def test_violations_of_schemas() -> None:
    metrics = MetricsRegistry()
    record = RequestRecord("/a", "POST", 200, 0.1, violations=("type", "uniqueItems", "type"))
    metrics.count_requests([record, RequestRecord("/a", "POST", 200, 0.1)])
    scrape = Scrape(metrics)
    assert scrape.value("tool_argument_violations_total", keyword="type") == 2
    assert scrape.value("tool_argument_violations_total", keyword="uniqueItems") == 1


def test_generations() -> None:
    metrics = MetricsRegistry()
    metrics.count_release("m", "e", ReleaseLease("stop", 10, 4, 21, 0.25, 2.0))
    metrics.count_release("m", "e", ReleaseLease("length", 5, 0, 1, 0.25, 0.0))
    metrics.count_release("m", "e", ReleaseLease("cancelled"))
    scrape = Scrape(metrics)
    for outcome in ("stop", "length", "cancelled"):
        assert scrape.value("inference_requests_total", **MODEL, outcome=outcome) == 1
    assert scrape.value("prompt_tokens_total", **MODEL) == 15
    assert scrape.value("prompt_tokens_cached_total", **MODEL) == 4
    assert scrape.value("generation_tokens_total", **MODEL) == 22
    assert scrape.value("time_to_first_token_seconds_count", **MODEL) == 2
    assert scrape.value("generation_tokens_per_second_count", **MODEL) == 1, "one token has no pace"
    assert scrape.value("generation_tokens_per_second_sum", **MODEL) == 10


def test_vllms_names() -> None:
    metrics = MetricsRegistry()
    metrics.count_release("m", "e", ReleaseLease("stop", 10, 4, 21, 0.25, 2.0), waited=0.2)
    metrics.count_release("m", "e", ReleaseLease("tool_calls", 5, 0, 1, 0.04, 0.0))
    metrics.count_release("m", "e", ReleaseLease("cancelled", 7))
    full = msgspec.structs.replace(
        ENGINE, model="m", engine="e", in_flight=3, queue=2, tokens_reserved=50, tokens_pool=200
    )
    scrape = Scrape(metrics, engines=[full])
    of = {"model_name": "m", "engine": "e"}
    assert scrape.value("vllm:prompt_tokens_total", **of) == 22
    assert scrape.value("vllm:generation_tokens_total", **of) == 22
    assert scrape.value("vllm:prefix_cache_queries_total", **of) == 22
    assert scrape.value("vllm:prefix_cache_hits_total", **of) == 4
    ends = {"stop": 2, "abort": 1, "length": None}
    for reason, count in ends.items():
        name = "vllm:request_success_total"
        assert scrape.value(name, **of, finished_reason=reason) == count
    assert scrape.value("vllm:num_requests_running", **of) == 3
    assert scrape.value("vllm:num_requests_waiting", **of) == 2
    assert scrape.value("vllm:kv_cache_usage_perc", **of) == 0.25
    first = "vllm:time_to_first_token_seconds"
    told = {le: scrape.value(f"{first}_bucket", **of, le=le) for le in ("0.02", "0.04", "0.25")}
    assert told == {"0.02": 0, "0.04": 1, "0.25": 2}, "a bound is within its bucket, as in vLLM"
    assert scrape.value(f"{first}_bucket", **of, le="+Inf") == 2
    assert scrape.value("vllm:e2e_request_latency_seconds_sum", **of) == pytest.approx(2.29)
    assert scrape.value("vllm:request_queue_time_seconds_sum", **of) == pytest.approx(0.2)
    assert scrape.value("vllm:request_prefill_time_seconds_sum", **of) == pytest.approx(0.09)
    assert scrape.value("vllm:inter_token_latency_seconds_count", **of) == 20
    assert scrape.value("vllm:inter_token_latency_seconds_sum", **of) == pytest.approx(2.0)
    assert scrape.value("vllm:request_generation_tokens_bucket", **of, le="20.0") == 1


def test_counters_begin_with_nothing_when_a_model_is_there() -> None:
    metrics = MetricsRegistry()
    metrics.count_load("m", "e", 1.0)
    scrape = Scrape(metrics)
    assert scrape.value("inference_requests_total", **MODEL, outcome="error") == 0
    assert scrape.value("engine_restarts_total", **MODEL) == 0
    assert scrape.value("generation_tokens_total", **MODEL) == 0


def test_engines() -> None:
    metrics = MetricsRegistry()
    metrics.count_load("m", "e", 2.0)
    metrics.count_crash("m", "e")
    other = msgspec.structs.replace(ENGINE, model="b", queue=3, memory_bytes=None)
    now = {"system": {"cpu_percent": 12.5}, "in_flight": 4, "cache": {"entries": 2, "bytes": 9}}
    scrape = Scrape(metrics, engines=[ENGINE, other], **now)
    assert scrape.value("model_load_seconds_sum", **MODEL) == 2
    assert scrape.value("engine_restarts_total", **MODEL) == 1
    assert scrape.value("engine_memory_bytes", model="ä", engine="fake") == 2**40
    assert scrape.value("engine_memory_bytes", model="b", engine="fake") is None
    assert scrape.value("engine_queue", model="b", engine="fake") == 3
    assert scrape.value("engines", model="b", engine="fake", state=other.state) == 1
    assert scrape.value("system_cpu_percent") == 12.5
    assert scrape.value("requests_in_flight") == 4
    assert scrape.value("response_cache_entries") == 2
    assert scrape.value("supervisor_uptime_seconds") == 1.5


def test_every_family_is_there_once_and_has_no_creation_times() -> None:
    metrics = MetricsRegistry()
    metrics.count_requests([RequestRecord("/a", "GET", 200, 0.02, "hit")])
    metrics.count_release("m", "e", ReleaseLease("stop", 10, 4, 21, 0.25, 2.0))
    names = [family.name for family in Scrape(metrics, engines=[ENGINE]).families]
    assert len(names) == len(set(names))
    assert not [name for name in names if name.endswith("_created")]
    assert all(name.startswith((f"{PREFIX}_", "vllm:")) for name in names)


def test_names_that_need_escaping() -> None:
    metrics = MetricsRegistry()
    metrics.count_release('a"b\\c\nd', "e", ReleaseLease("stop", completion_tokens=1))
    found = Scrape(metrics).value("generation_tokens_total", model='a"b\\c\nd', engine="e")
    assert found == 1
