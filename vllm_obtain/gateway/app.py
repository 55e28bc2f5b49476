"""Creates the Flask application. `gateway/routes.py` has its routes."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Response

from vllm_obtain import core_dumps
from vllm_obtain.access.allowed_hosts import AllowedHosts
from vllm_obtain.access.authenticator import Authenticator
from vllm_obtain.access.cors import CorsPolicy
from vllm_obtain.access.trusted_proxies import TrustedProxies
from vllm_obtain.chat import sandbox
from vllm_obtain.config.settings import Settings, is_frozen, load_settings
from vllm_obtain.control import runtime_dir
from vllm_obtain.control.client import SupervisorClient
from vllm_obtain.engines.selection import probe_all
from vllm_obtain.gateway.core.coalescing import Coalescer
from vllm_obtain.gateway.core.connections import Connections
from vllm_obtain.gateway.core.request_reporter import RequestReporter
from vllm_obtain.gateway.core.services import EXTENSION, Services
from vllm_obtain.gateway.middleware import (
    access_log,
    auth,
    body,
    error_handler,
    proxy_cors,
    upgrade_hold,
)
from vllm_obtain.gateway.middleware.body import Wsgi
from vllm_obtain.gateway.routes import ROUTES
from vllm_obtain.logs import setup
from vllm_obtain.models import ModelCatalog
from vllm_obtain.tracing.spans import tracing

OWNER_VARIABLE = "VLLM_OBTAIN_OWNER"


class GatewayApp(Flask):
    """Flask for synchronous views and hooks."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function unchanged, which skips Flask's check on every request."""
        return func


def create_app(settings: Settings | None = None) -> Flask:
    """Create the application of one gateway process, and start a supervisor if none runs.

    Args:
        settings: the settings; read from the environment and `.env` if omitted.

    Raises:
        SettingsError, StartError, SupervisorLost: the service cannot start here.
    """
    settings = settings or load_settings()
    core_dumps.forbid(settings)
    setup.configure(settings, "gateway", required=not is_frozen())
    app = GatewayApp("vllm_obtain", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_mb * 1024 * 1024
    app.config["BODY_TIMEOUT"] = settings.body_timeout
    app.config["STRICT_PARAMETERS"] = settings.strict_parameters
    services = app.extensions[EXTENSION] = _services(settings)
    _add_middleware(app, services)
    error_handler.register(app)
    _add_routes(app)
    return app


def _add_middleware(app: Flask, services: Services) -> None:
    """Add everything that a request passes outside of its view, in this order."""
    settings = services.settings
    wsgi: list[Callable[[Wsgi], Wsgi]] = [
        *([partial(proxy_cors.Prefix, prefix=settings.url_prefix)] if settings.url_prefix else []),
        body.ConnectionCloser,
        partial(upgrade_hold.UpgradeHold, services=services),
    ]
    # A step before the view may respond itself, or raise an error that `error_handler` renders.
    before: list[Callable[[Services], Response | None]] = [
        access_log.begin,
        *([proxy_cors.read_proxy_headers] if settings.trusted_proxies else []),
        *([proxy_cors.answer_preflight] if settings.cors_origins else []),
        partial(auth.check, {route.endpoint: route.access for route in ROUTES}),
    ]
    after: list[Callable[[Services, Response], None]] = [
        *([proxy_cors.add_headers] if settings.cors_origins else []),
        access_log.end,
    ]

    def before_view() -> Response | None:
        for step in before:
            if (response := step(services)) is not None:
                return response
        return None

    def after_view(response: Response) -> Response:
        for step in after:
            step(services, response)
        return response

    for layer in reversed(wsgi):
        app.wsgi_app = layer(app.wsgi_app)  # type: ignore[assignment, method-assign]
    app.before_request(before_view)
    app.after_request(after_view)


def _services(settings: Settings) -> Services:
    folder = runtime_dir.folder(settings.port)
    keys = Authenticator(settings, copy=folder / runtime_dir.KEYS)
    probe_all(settings)
    sandbox.start()
    owner = int(os.environ.get(OWNER_VARIABLE) or os.getpid())
    supervisor = SupervisorClient(settings, owner)
    supervisor.ensure_running(replace=True)
    reporter = RequestReporter(supervisor)
    reporter.start()
    catalogue = ModelCatalog(settings.models_dir, table=settings.models)
    catalogue.models()
    connections = Connections(settings.worker_connections)
    return Services(
        settings,
        catalogue,
        supervisor,
        reporter,
        connections,
        Coalescer(settings.stream_pulse or None),
        keys,
        AllowedHosts(settings),
        CorsPolicy(settings),
        TrustedProxies(settings),
        tracing(reporter.lost),
    )


def _add_routes(app: Flask) -> None:
    # `//` in a path is not redirected: a redirect loses the body of a POST.
    app.url_map.merge_slashes = False
    for route in ROUTES:
        app.add_url_rule(route.path, route.endpoint, route.view, methods=[route.method])
