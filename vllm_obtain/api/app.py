"""The Flask application: everything it is made of, and every route it has."""

from __future__ import annotations

import os

from flask import Flask

from vllm_obtain import log
from vllm_obtain.api import embeddings, errors, hooks, inference, models, rerank, system, tokens
from vllm_obtain.api.anthropic import dialect
from vllm_obtain.api.anthropic import routes as anthropic
from vllm_obtain.api.connections import Connections
from vllm_obtain.api.flights import Flights
from vllm_obtain.api.ollama import embed as ollama_embed
from vllm_obtain.api.ollama import models as ollama_models
from vllm_obtain.api.ollama import routes as ollama
from vllm_obtain.api.reporter import Reporter
from vllm_obtain.api.responses import routes as responses
from vllm_obtain.api.services import EXTENSION, Services
from vllm_obtain.catalogue import Catalogue
from vllm_obtain.engines.choice import warm
from vllm_obtain.settings import Settings, load_settings
from vllm_obtain.supervisor.client import Supervisor

OWNER_VARIABLE = "VLLM_OBTAIN_OWNER"


def create_app(settings: Settings | None = None) -> Flask:
    """Make the application of one gateway process, and see to it that a supervisor runs.

    Args:
        settings: the owner's settings; read from the environment and `.env` when left out.

    Raises:
        SettingsError, StartError, SupervisorLost: the service cannot start here.
    """
    settings = settings or load_settings()
    log.configure(settings, "gateway")
    app = Flask("vllm_obtain")
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_mb * 1024 * 1024
    app.extensions[EXTENSION] = _services(settings)
    # Before the hooks, which may refuse a request: that too is told in the client's language.
    app.before_request(dialect.speak)
    app.before_request(ollama.dialect)
    hooks.register(app)
    errors.register(app)
    _routes(app)
    return app


def _services(settings: Settings) -> Services:
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
    return Services(settings, catalogue, supervisor, reporter, connections, flights)


def _routes(app: Flask) -> None:
    app.get("/health")(system.health)
    app.get("/ready")(system.ready)
    app.get("/metrics")(system.metrics)
    app.get("/version")(system.version)
    app.get("/v1/system/status")(system.status)

    app.get("/v1/models")(models.index)
    app.get("/v1/models/<path:name>")(models.show)
    app.post("/v1/models/load")(models.load)
    app.post("/v1/models/unload")(models.unload)

    app.post("/v1/chat/completions")(inference.chat)
    app.post("/v1/completions")(inference.completions)

    app.post("/v1/responses", endpoint="responses.create")(responses.create)
    app.get("/v1/responses/<name>", endpoint="responses.show")(responses.show)
    app.delete("/v1/responses/<name>", endpoint="responses.delete")(responses.delete)
    app.post("/v1/responses/<name>/cancel", endpoint="responses.cancel")(responses.cancel)
    app.get("/v1/responses/<name>/input_items", endpoint="responses.items")(responses.input_items)
    app.post("/v1/embeddings")(embeddings.embeddings)
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        app.post(path)(rerank.rerank)
    app.post("/tokenize")(tokens.tokenize)
    app.post("/detokenize")(tokens.detokenize)
    app.post("/v1/messages")(anthropic.messages)
    app.post("/v1/messages/count_tokens")(anthropic.count_tokens)
    app.get("/")(ollama.running)
    app.post("/api/chat", endpoint="ollama_chat")(ollama.chat)
    app.post("/api/generate", endpoint="ollama_generate")(ollama.generate)
    app.post("/api/embed", endpoint="ollama_embed")(ollama_embed.embed)
    app.post("/api/embeddings", endpoint="ollama_embeddings")(ollama_embed.embeddings)
    app.get("/api/tags")(ollama_models.tags)
    app.post("/api/show", endpoint="ollama_show")(ollama_models.show)
    app.get("/api/ps")(ollama_models.ps)
    app.get("/api/version", endpoint="ollama_version")(ollama_models.version)
