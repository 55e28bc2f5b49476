"""How the service is: alive, ready, status, numbers."""

from __future__ import annotations

import os
from dataclasses import asdict

import msgspec
from flask import Response

from vllm_obtain import __version__
from vllm_obtain.api.answers import (
    EngineHere,
    GatewayStatus,
    Health,
    Ready,
    StatusBody,
    SupervisorStatus,
    Version,
)
from vllm_obtain.api.effective import effective
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import Services, services
from vllm_obtain.engines import detect
from vllm_obtain.engines.choice import default_model, why_not
from vllm_obtain.engines.detect_judge import Facts
from vllm_obtain.errors import ServiceError
from vllm_obtain.hardware import describe, workers
from vllm_obtain.messages import EngineStatus, Metrics, MetricsReply, Status, StatusReply

_ALIVE = msgspec.json.encode(Health("ok"))


def health() -> Response:
    """GET /health: this process answers, whatever the engines do."""
    return reply(_ALIVE)


def ready() -> Response:
    """GET /ready: whether a request would be answered, and why not."""
    made = services()
    if made.draining:
        return reply(Ready("not ready", "The service is stopping."), 503)
    try:
        status = made.supervisor.ask(Status(), StatusReply, 2)
        reason = _why_not_ready(status.engines) or _why_no_model(made)
    except ServiceError as error:
        reason = error.message
    if reason is not None:
        return reply(Ready("not ready", reason), 503)
    return reply(Ready("ready"))


def status() -> Response:
    """GET /v1/system/status."""
    made = services()
    now = made.supervisor.ask(Status(), StatusReply)
    body = StatusBody(
        version=__version__,
        uptime_seconds=round(now.uptime, 3),
        gateway=GatewayStatus(os.getpid(), workers(made.settings.workers)),
        supervisor=SupervisorStatus(now.pid),
        machine=describe(),
        system=now.system,
        requests_in_flight=now.in_flight,
        response_cache=now.cache,
        kept_responses=now.responses,
        memory=now.memory,
        engines=now.engines,
        handovers=now.handovers,
        engines_available=[_available(found) for found in detect.snapshot(made.settings)],
        model_engines=made.settings.engine_pins,
        model_settings=effective(made),
    )
    return reply(body)


def metrics() -> Response:
    """GET /metrics, in Prometheus' text format."""
    made = services()
    made.reporter.flush()
    text = made.supervisor.ask(Metrics(), MetricsReply).text
    return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")


def version() -> Response:
    """GET /version."""
    return reply(Version(__version__))


def _available(found: Facts) -> EngineHere:
    return EngineHere(available=found.reason is None, **asdict(found))


def _why_no_model(made: Services) -> str | None:
    model = default_model(made.catalogue, made.settings)
    return why_not(model, made.settings) if model else "MODELS_DIR holds no model."


def _why_not_ready(engines: list[EngineStatus]) -> str | None:
    states = {engine.state for engine in engines}
    serving = [engine for engine in engines if engine.state == "ready"]
    if any(engine.healthy for engine in serving):
        return None
    if serving:
        stuck = serving[0]
        return f"'{stuck.model}' has work and makes no step for {stuck.quiet_seconds:.0f} s."
    if states & {"converting", "starting", "crashed", "draining"}:
        stage = next((engine.stage for engine in engines if engine.stage), None)
        return f"An engine is starting ({stage})." if stage else "An engine is starting."
    failed = next((engine for engine in engines if engine.state == "failed"), None)
    if failed is not None:
        return failed.last_error or f"'{failed.model}' could not be loaded."
    return None
