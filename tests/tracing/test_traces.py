"""Traces of a real service, as a collector hears of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.service import Service
from tests.waiting import eventually

pytestmark = pytest.mark.slow

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
WORD = "Xylophone"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeCollector)
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        self.raw = b""
        self.headers: dict[str, str] = {}


class FakeCollector(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        self.server.raw += body
        self.server.headers = dict(self.headers)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.resources.append(values(group.resource.attributes))
            for scope in group.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        try:
            yield collector
        finally:
            collector.shutdown()


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: value(each.value) for each in attributes}


def value(one: Any) -> Any:
    kind = one.WhichOneof("value")
    if kind == "array_value":
        return [value(each) for each in one.array_value.values]
    return getattr(one, kind)


def environment(collector: Collector) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=abc",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "ENABLE_CACHING": "true",
    }


def test_each_request_is_a_span_and_a_collector_that_is_down_costs_nothing(tmp_path: Path) -> None:
    with (
        collecting() as collector,
        Service(["run.py"], tmp_path, environment(collector)) as service,
    ):
        messages = [{"role": "user", "content": f"Say {WORD}."}]
        fields = {"messages": messages, "max_tokens": 8, "temperature": 0}
        status, _, body = service.request(
            "/v1/chat/completions", {**fields, "stream": True}, headers=PARENT
        )
        assert status == 200 and b"[DONE]" in body
        service.json("/v1/chat/completions", fields)  # the same: from the cache
        assert service.request("/v1/nothing", headers={"traceparent": "nonsense"})[0] == 404
        assert service.request("/health", headers=PARENT)[0] == 200
        eventually(lambda: len(collector.spans) >= 3)

        first, second, third = sorted(collector.spans, key=lambda span: span.start_time_unix_nano)
        told = values(first.attributes)
        model = told["gen_ai.request.model"]
        assert first.name == f"chat {model}"
        assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, SPAN)
        assert first.trace_state == "vendor=1"
        assert told["gen_ai.provider.name"] == "llama_cpp"
        assert told["gen_ai.operation.name"] == "chat"
        assert told["gen_ai.usage.output_tokens"] == 8 and told["gen_ai.usage.input_tokens"] > 8
        assert told["gen_ai.response.finish_reasons"] == ["length"]
        queued, began = (
            told[f"gen_ai.latency.{name}"] for name in ("time_in_queue", "time_to_first_token")
        )
        lasted = (first.end_time_unix_nano - first.start_time_unix_nano) / 1e9
        assert 0 < queued < began < lasted
        assert told["http.route"] == "/v1/chat/completions"

        hit = values(second.attributes)
        assert hit["vllm_obtain.cache"] == "hit" and "gen_ai.usage.output_tokens" not in hit
        assert second.trace_id.hex() != TRACE and not second.parent_span_id
        assert values(third.attributes)["http.response.status_code"] == 404
        assert third.trace_id.hex() != TRACE

        assert collector.resources[0]["service.name"] == "vllm-obtain"
        assert collector.headers["x-token"] == "abc"
        assert WORD.encode() not in collector.raw, "no prompt, no answer"
        lines = {line["trace_id"] for line in service.logged("api_requests.log")}
        assert lines == {span.trace_id.hex() for span in collector.spans}

        # A collector that is gone: requests go on, what is lost is counted and told once.
        collector.shutdown()
        collector.server_close()
        for _ in range(2):
            assert service.json("/v1/chat/completions", fields, timeout=5)
            before = lost_spans(service)
            eventually(lambda before=before: lost_spans(service) > before, timeout=30)
        said = [line for line in service.logged("app.log") if line["event"] == "trace spans lost"]
        assert len(said) == 1 and "OTEL_EXPORTER_OTLP_ENDPOINT" in said[0]["reason"]


def lost_spans(service: Service) -> float:
    text = service.request("/metrics")[2].decode()
    (line,) = [
        each for each in text.splitlines() if each.startswith("vllm_obtain_trace_spans_lost")
    ]
    return float(line.split()[-1])
