"""One span per request, by OpenTelemetry. Nothing of it is imported unless it is configured."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from vllm_obtain import __version__
from vllm_obtain.log import get_logger
from vllm_obtain.tracing import context
from vllm_obtain.tracing.context import Remote
from vllm_obtain.tracing.outbox import Outbox

log = get_logger("vllm_obtain.tracing")

# A batch that takes a millisecond or two to encode: a worker's streams wait for that.
BATCH = 64
LIMIT = 2048
DELAY_MS = 5000
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"

Attributes = Mapping[str, str | int | float | tuple[str, ...]]


class Trace:
    """The trace of one request.

    Args:
        remote: who asks us; None where nobody said so.
    """

    def __init__(self, remote: Remote | None = None) -> None:
        self.id = remote.trace_id if remote else ""
        # What an engine is told, which may have spans of its own.
        self.headers = remote.headers if remote else {}

    @property
    def is_recording(self) -> bool:
        """Whether anybody wants to know what it comes to."""
        return False

    def end(self, name: str, attributes: Attributes, problem: str | None) -> None:
        """Say what the request came to.

        Args:
            name: of the span.
            attributes: of OpenTelemetry's conventions, and our own.
            problem: a word for what went wrong on our side, None when nothing did.
        """


class Tracing:
    """Makes traces; without a collector they are what the client said."""

    def begin(self, parent: str, state: str) -> Trace:
        """Begin the trace of a request; arguments as in `context.read`."""
        return Trace(context.read(parent, state) if parent else None)

    def close(self) -> None:
        """Send what is left."""


class _Span(Trace):
    def __init__(self, span: Any) -> None:
        super().__init__()
        self._span = span
        own = span.get_span_context()
        self.id = f"{own.trace_id:032x}"
        state = own.trace_state.to_header()
        self.headers = context.headers(
            self.id, f"{own.span_id:016x}", f"{own.trace_flags:02x}", state
        )

    @property
    def is_recording(self) -> bool:
        return bool(self._span.is_recording())

    def end(self, name: str, attributes: Attributes, problem: str | None) -> None:
        from opentelemetry.trace import StatusCode

        self._span.update_name(name)
        self._span.set_attributes(attributes)
        if problem is not None:
            self._span.set_attribute("error.type", problem)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Collected(Tracing):
    """Traces that are sent to a collector.

    Args:
        lost: told how many spans did not arrive.
    """

    def __init__(self, lost: Callable[[int], None]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.export import SpanExportResult

        # It tells of each failure many times over; the outbox does so once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = OTLPSpanExporter(session=_session())
        outbox = Outbox(
            lambda spans: exporter.export(spans) is SpanExportResult.SUCCESS,
            lost,
            _number("OTEL_BSP_MAX_QUEUE_SIZE", LIMIT),
            _number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH),
            _number("OTEL_BSP_SCHEDULE_DELAY", DELAY_MS) / 1000,
        )

        class Ended(SpanProcessor):
            def on_end(self, span: Any) -> None:
                outbox.add(span)

        self._outbox = outbox
        # The owner's own words win: the SDK takes them from the environment.
        about = {"service.name": "vllm-obtain"} if not _is_named() else {}
        resource = Resource.create({**about, "service.version": __version__})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(Ended())
        self._tracer = provider.get_tracer("vllm_obtain", __version__)

    def begin(self, parent: str, state: str) -> Trace:
        """Begin the span of a request, below the client's if it said which one that is."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        found, remote = Context(), context.read(parent, state) if parent else None
        if remote is not None:
            found = set_span_in_context(_above(remote), found)
        return _Span(self._tracer.start_span("request", context=found, kind=SpanKind.SERVER))

    def close(self) -> None:
        """Send what is left, if that can be done at once."""
        self._outbox.close()


def tracing(dotenv: Mapping[str, str], lost: Callable[[int], None]) -> Tracing:
    """Make what the environment asks for.

    Args:
        dotenv: the owner's `.env`: what begins with OTEL_ counts as if it were exported.
        lost: told how many spans did not arrive.
    """
    for name, value in dotenv.items():
        if name.startswith("OTEL_"):
            os.environ.setdefault(name, value)
    if not _is_wanted():
        return Tracing()
    protocol = next(filter(None, map(os.environ.get, _PROTOCOLS)), _SPOKEN)
    if protocol != _SPOKEN:
        log.error(
            f"no traces: {protocol} is not spoken here. Set OTEL_EXPORTER_OTLP_PROTOCOL="
            f"{_SPOKEN}, and the collector's port for it (4318)"
        )
        return Tracing()
    try:
        return Collected(lost)
    except ImportError:
        log.error("no traces: packages are missing; pip install 'vllm-obtain[otel]'")
    except Exception as error:  # a value that OpenTelemetry does not take: no reason not to serve
        log.error("no traces: OpenTelemetry does not start", reason=str(error))
    return Tracing()


def _is_wanted() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() not in ("", "otlp"):
        return False
    return any(os.environ.get(name, "").strip() for name in _ENDPOINTS)


def _is_named() -> bool:
    told = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name=" in told


def _number(name: str, otherwise: int) -> int:
    try:
        return max(1, int(os.environ.get(name) or otherwise))
    except ValueError:
        log.error(f"{name}={os.environ[name]!r} is not a whole number; {otherwise} is used")
        return otherwise


def _session() -> Any:
    import requests

    session = requests.Session()
    # Looking up a proxy can end a forked process on macOS.
    session.trust_env = False
    return session


def _above(remote: Remote) -> Any:
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
