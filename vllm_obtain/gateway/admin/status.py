"""Routes for liveness, readiness, status, metrics and version."""

from __future__ import annotations

import os
from dataclasses import asdict

import msgspec
from flask import Response

from vllm_obtain import __version__
from vllm_obtain.control.messages import EngineStatus, Metrics, MetricsReply, Status, StatusReply
from vllm_obtain.engines.detection import detect
from vllm_obtain.engines.detection.verdict import EngineAvailability
from vllm_obtain.engines.selection import default_model, why_not_servable
from vllm_obtain.errors import ServiceError
from vllm_obtain.gateway.admin.model_settings import effective
from vllm_obtain.gateway.admin.types import (
    EngineHere,
    GatewayStatus,
    Health,
    Ready,
    StatusBody,
    SupervisorStatus,
    Version,
)
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import Services, current_services
from vllm_obtain.hardware.machine import describe, workers

_ALIVE = msgspec.json.encode(Health("ok"))


def health() -> Response:
    """GET /health: 200 while the gateway is up, regardless of engine state."""
    return reply(_ALIVE)


def ready() -> Response:
    """GET /ready: 200 when a request can be served, otherwise 503 with the reason."""
    services = current_services()
    if services.draining:
        return reply(Ready("not ready", "The service is stopping."), 503)
    try:
        status = services.supervisor.request(Status(), StatusReply, 2)
        reason = _why_not_ready(status.engines) or _why_no_model(services)
    except ServiceError as error:
        reason = error.message
    if reason is not None:
        return reply(Ready("not ready", reason), 503)
    return reply(Ready("ready"))


def status() -> Response:
    """GET /v1/system/status."""
    services = current_services()
    state = services.supervisor.request(Status(), StatusReply)
    body = StatusBody(
        version=__version__,
        uptime_seconds=round(state.uptime, 3),
        gateway=GatewayStatus(os.getpid(), workers(services.settings.workers)),
        supervisor=SupervisorStatus(state.pid),
        machine=describe(),
        system=state.system,
        requests_in_flight=state.in_flight,
        response_cache=state.cache,
        kept_responses=state.responses,
        memory=state.memory,
        engines=state.engines,
        handovers=state.handovers,
        engines_available=[_available(engine) for engine in detect.snapshot(services.settings)],
        model_engines=services.settings.engine_pins,
        model_settings=effective(services),
    )
    return reply(body)


def metrics() -> Response:
    """GET /metrics, in the Prometheus text format."""
    services = current_services()
    services.reporter.flush()
    text = services.supervisor.request(Metrics(), MetricsReply).text
    return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")


def version() -> Response:
    """GET /version."""
    return reply(Version(__version__))


def _available(engine: EngineAvailability) -> EngineHere:
    return EngineHere(available=engine.reason is None, **asdict(engine))


def _why_no_model(services: Services) -> str | None:
    model = default_model(services.catalogue, services.settings)
    return (
        why_not_servable(model, services.settings)
        if model
        else "MODELS_DIR has no models. Download one with `vllm-obtain pull`."
    )


def _why_not_ready(engines: list[EngineStatus]) -> str | None:
    states = {engine.state for engine in engines}
    loaded = [engine for engine in engines if engine.state == "ready"]
    if any(engine.healthy for engine in loaded):
        return None
    if loaded:
        stalled = loaded[0]
        return f"'{stalled.model}' has made no progress for {stalled.quiet_seconds:.0f} s."
    if states & {"converting", "starting", "crashed", "draining"}:
        stage = next((engine.stage for engine in engines if engine.stage), None)
        return f"An engine is starting ({stage})." if stage else "An engine is starting."
    failed = next((engine for engine in engines if engine.state == "failed"), None)
    if failed is not None:
        return failed.last_error or f"'{failed.model}' could not be loaded."
    return None
