"""Startup message on the terminal: URL, model and an example request."""

from __future__ import annotations

import json
import sys

from vllm_obtain.control.messages import LoadModel, LoadStatus
from vllm_obtain.engines.selection import default_model, hidden_aliases, unused_pins, unused_tables
from vllm_obtain.errors import ServiceError
from vllm_obtain.gateway.core.services import Services
from vllm_obtain.logs.setup import get_logger

log = get_logger("vllm_obtain.models")

_BANNER = """
vllm-obtain is ready: {url}
  model   {model}  (engine: {engine})
  try     curl {url}{path} {key}-H 'Content-Type: application/json' -d '{body}'
"""
_KEY = "-H 'Authorization: Bearer <your key>' "
_PROMPT = "Tell me a joke."
_CHAT: dict[str, object] = {"messages": [{"role": "user", "content": _PROMPT}]}


def announce(services: Services) -> None:
    """Load the default model, then print the URL and an example request.

    The model counts as loaded when it has generated a token. Called once, by the first worker.

    Args:
        services: services of this process.
    """
    host = services.settings.host
    address = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared only
    scheme = "https" if services.settings.tls_certfile else "http"
    url = f"{scheme}://{address}:{services.settings.port}{services.settings.url_prefix}"
    try:
        model = default_model(services.catalogue, services.settings)
    except ServiceError as error:
        _print(
            f"\nvllm-obtain is running at {url}, but DEFAULT_MODEL cannot be used: "
            f"{error.message}\n"
        )
        return
    if model is None:
        _print(
            f"\nvllm-obtain is running at {url}, but {services.settings.models_dir} has no model. "
            "Put a GGUF file there, or run `make model` to download a small one.\n"
        )
        return
    try:
        status = services.supervisor.request(
            LoadModel(model.name, True), LoadStatus, services.settings.load_timeout + 60
        )
    except ServiceError as error:
        _print(
            f"\nvllm-obtain is running at {url}, but the model {model.name} failed to load:\n"
            f"  {error.message}\n"
        )
        return
    _warn(services)
    path, request = "/v1/chat/completions", _CHAT
    if model.kind == "embedding":
        path, request = "/v1/embeddings", {"input": _PROMPT}
    _print(
        _BANNER.format(
            url=url,
            path=path,
            model=model.name,
            engine=status.engine,
            key=_KEY if services.authenticator.required else "",
            body=json.dumps({"model": model.name, **request}),
        )
    )


def _warn(services: Services) -> None:
    """Log settings for models that do not exist. They may be added later, so it is no error."""
    for name in unused_pins(services.catalogue.known(), services.settings):
        log.warning("model not found", setting="MODEL_ENGINES", model=name)
    for name in unused_tables(services.catalogue, services.settings):
        log.warning("model not found", setting="MODEL_SETTINGS", model=name)
    for alias in hidden_aliases(services.catalogue, services.settings):
        log.warning("alias ignored", reason="a model has this name", alias=alias)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
