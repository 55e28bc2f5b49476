"""One OpenTelemetry span per request. The SDK is imported only if a collector is configured."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from vllm_obtain import __version__
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.tracing import context
from vllm_obtain.tracing.batch_exporter import BatchExporter
from vllm_obtain.tracing.context import ParentContext

log = get_logger("vllm_obtain.tracing")

# Encoding a batch blocks the streams of a worker: 64 spans take one to two milliseconds.
BATCH = 64
LIMIT = 2048
DELAY_MS = 5000
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SUPPORTED_PROTOCOL = "http/protobuf"

Attributes = Mapping[str, str | int | float | tuple[str, ...]]


class Trace:
    """The trace of one request.

    Args:
        remote: the client's trace context, None if it sent none.
    """

    def __init__(self, remote: ParentContext | None = None) -> None:
        self.id = remote.trace_id if remote else ""
        # Trace context headers for the engine, which may export spans too.
        self.headers = remote.headers if remote else {}

    # Whether the span is exported.
    is_recording = False

    def end(self, name: str, attributes: Attributes, problem: str | None) -> None:
        """End the span of the request.

        Args:
            name: name of the span.
            attributes: attributes of OpenTelemetry's semantic conventions, and our own.
            problem: value of `error.type` for a server error, None without one.
        """


class Tracing:
    """Creates traces. Without a collector a trace only forwards the client's context."""

    def begin(self, parent: str, state: str) -> Trace:
        """Start the trace of a request; arguments as in `context.read`."""
        return Trace(context.read(parent, state) if parent else None)

    def close(self) -> None:
        """Send the queued spans."""


class _Span(Trace):
    def __init__(self, span: Any) -> None:
        super().__init__()
        self._span = span
        self.is_recording = bool(span.is_recording())
        span_context = span.get_span_context()
        self.id = f"{span_context.trace_id:032x}"
        state = span_context.trace_state.to_header()
        self.headers = context.headers(
            self.id, f"{span_context.span_id:016x}", f"{span_context.trace_flags:02x}", state
        )

    def end(self, name: str, attributes: Attributes, problem: str | None) -> None:
        from opentelemetry.trace import StatusCode

        self._span.update_name(name)
        self._span.set_attributes(attributes)
        if problem is not None:
            self._span.set_attribute("error.type", problem)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class OtlpTracing(Tracing):
    """Traces that are exported to an OTLP collector.

    Args:
        on_lost: called with the number of lost spans.
    """

    def __init__(self, on_lost: Callable[[int], None]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.export import SpanExportResult

        # OpenTelemetry logs each failure many times; `BatchExporter` logs it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = OTLPSpanExporter(session=_session())
        batch_exporter = BatchExporter(
            lambda spans: exporter.export(spans) is SpanExportResult.SUCCESS,
            on_lost,
            _number("OTEL_BSP_MAX_QUEUE_SIZE", LIMIT),
            _number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH),
            _number("OTEL_BSP_SCHEDULE_DELAY", DELAY_MS) / 1000,
        )

        class Ended(SpanProcessor):
            def on_end(self, span: Any) -> None:
                batch_exporter.add(span)

        self._batch_exporter = batch_exporter
        # The SDK reads the operator's values from the environment, and they take precedence.
        attributes = {"service.name": "vllm-obtain"} if not _is_named() else {}
        resource = Resource.create({**attributes, "service.version": __version__})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(Ended())
        self._tracer = provider.get_tracer("vllm_obtain", __version__)

    def begin(self, parent: str, state: str) -> Trace:
        """Start the span of a request, as a child of the client's span if it sent one."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        parent_context, remote = Context(), context.read(parent, state) if parent else None
        if remote is not None:
            parent_context = set_span_in_context(_remote_span(remote), parent_context)
        return _Span(
            self._tracer.start_span("request", context=parent_context, kind=SpanKind.SERVER)
        )

    def close(self) -> None:
        """Send the queued spans, for at most two seconds."""
        self._batch_exporter.close()


def tracing(on_lost: Callable[[int], None]) -> Tracing:
    """Create the tracing that the OTEL_* environment variables configure.

    Args:
        on_lost: called with the number of lost spans.
    """
    if not _is_enabled():
        return Tracing()
    protocol = next(filter(None, map(os.environ.get, _PROTOCOLS)), _SUPPORTED_PROTOCOL)
    if protocol != _SUPPORTED_PROTOCOL:
        log.error(
            "tracing disabled",
            reason=f"The protocol {protocol} is not supported. Set OTEL_EXPORTER_OTLP_PROTOCOL="
            f"{_SUPPORTED_PROTOCOL}, and use the collector's port for it (usually 4318).",
        )
        return Tracing()
    try:
        return OtlpTracing(on_lost)
    except ImportError:
        reason = "Packages are missing. Run: pip install 'vllm-obtain[otel]'"
        log.error("tracing disabled", reason=reason)
    except Exception as error:  # an invalid OTEL_* value must not stop the service
        log.error("tracing disabled", reason=f"OpenTelemetry does not start: {error}")
    return Tracing()


def _is_enabled() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() not in ("", "otlp"):
        return False
    return any(os.environ.get(name, "").strip() for name in _ENDPOINTS)


def _is_named() -> bool:
    attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name=" in attributes


def _number(name: str, default: int) -> int:
    try:
        return max(1, int(os.environ.get(name) or default))
    except ValueError:
        problem = f"{name} must be an integer, got {os.environ[name]!r}."
        log.error("trace setting rejected", reason=problem, default=default)
        return default


def _session() -> Any:
    import requests

    session = requests.Session()
    # On macOS, a proxy lookup can crash a forked process.
    session.trust_env = False
    return session


def _remote_span(remote: ParentContext) -> Any:
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

    return NonRecordingSpan(
        SpanContext(
            int(remote.trace_id, 16),
            int(remote.span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(int(remote.flags, 16) & TraceFlags.SAMPLED),
            trace_state=TraceState.from_header([remote.state]) if remote.state else None,
        )
    )
