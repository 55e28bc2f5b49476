"""The Flask application: everything it is made of. `api/routes.py` has its routes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask

from vllm_obtain import cores, log
from vllm_obtain.access.hosts import Hosts
from vllm_obtain.access.keys import Keys
from vllm_obtain.access.origins import Origins
from vllm_obtain.api import edge, entry, errors, hooks
from vllm_obtain.api.anthropic import dialect
from vllm_obtain.api.connections import Connections
from vllm_obtain.api.flights import Flights
from vllm_obtain.api.ollama import routes as ollama
from vllm_obtain.api.reporter import Reporter
from vllm_obtain.api.routes import ROUTES
from vllm_obtain.api.services import EXTENSION, Services
from vllm_obtain.catalogue import Catalogue
from vllm_obtain.engines.choice import warm
from vllm_obtain.setting_sources import plain
from vllm_obtain.settings import Settings, load_settings
from vllm_obtain.supervisor.client import Supervisor
from vllm_obtain.tracing.spans import tracing

OWNER_VARIABLE = "VLLM_OBTAIN_OWNER"


class Gateway(Flask):
    """Flask, for views and hooks that are all plain functions."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function as it is: Flask looks at each of them for every request."""
        return func


def create_app(settings: Settings | None = None) -> Flask:
    """Make the application of one gateway process, and see to it that a supervisor runs.

    Args:
        settings: the owner's settings; read from the environment and `.env` when left out.

    Raises:
        SettingsError, StartError, SupervisorLost: the service cannot start here.
    """
    settings = settings or load_settings()
    cores.forbid(settings)
    log.configure(settings, "gateway")
    app = Gateway("vllm_obtain", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_mb * 1024 * 1024
    made = app.extensions[EXTENSION] = _services(settings)
    # Before the hooks, which may refuse a request: that too is told in the client's language.
    app.before_request(dialect.speak)
    app.before_request(ollama.dialect)
    hooks.register(app, made)
    edge.register(app, settings, made.origins)
    entry.register(app, ROUTES)
    errors.register(app)
    _routes(app)
    return app


def _services(settings: Settings) -> Services:
    keys = Keys(settings)
    warm(settings)
    owner = int(os.environ.get(OWNER_VARIABLE) or os.getpid())
    supervisor = Supervisor(settings, owner)
    supervisor.ensure_running(replace=True)
    reporter = Reporter(supervisor)
    reporter.start()
    catalogue = Catalogue(settings.models_dir, table=settings.models)
    catalogue.models()
    connections = Connections(settings.worker_connections)
    flights = Flights(settings.pulse)
    return Services(
        settings,
        catalogue,
        supervisor,
        reporter,
        connections,
        flights,
        keys,
        Hosts(settings),
        Origins(settings),
        tracing(plain(Path(".env")), reporter.lost),
    )


def _routes(app: Flask) -> None:
    # `//` in a path is not redirected: a redirect loses the body of a POST.
    app.url_map.merge_slashes = False
    for route in ROUTES:
        app.add_url_rule(route.path, route.endpoint, route.view, methods=[route.method])
