"""Saying on the terminal that a token can be had, and how."""

from __future__ import annotations

import json
import sys

from vllm_obtain.api.services import Services
from vllm_obtain.engines.choice import default_model, hidden_aliases, unused_pins, unused_tables
from vllm_obtain.errors import ServiceError
from vllm_obtain.log import get_logger
from vllm_obtain.messages import Done, Load

log = get_logger("vllm_obtain.models")

_BANNER = """
vllm-obtain is ready: {url}
  model   {model}  (engine: {engine})
  try     curl {url}{path} {key}-H 'Content-Type: application/json' -d '{body}'
"""
_KEY = "-H 'Authorization: Bearer <your key>' "
_JOKE = "Tell me a joke."
_CHAT: dict[str, object] = {"messages": [{"role": "user", "content": _JOKE}]}


def announce(made: Services) -> None:
    """Wait until the default model has produced a token, then print the address.

    Args:
        made: the services of this process; printed once, by its first worker.
    """
    host = made.settings.host
    address = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared only
    scheme = "https" if made.settings.tls_certfile else "http"
    url = f"{scheme}://{address}:{made.settings.port}{made.settings.url_prefix}"
    try:
        model = default_model(made.catalogue, made.settings)
    except ServiceError as error:
        _say(f"\nvllm-obtain answers at {url}, but its default model is wrong: {error.message}\n")
        return
    if model is None:
        _say(
            f"\nvllm-obtain answers at {url}, but {made.settings.models_dir} holds no model. "
            "Put a GGUF file there, or run `make model` for a small one.\n"
        )
        return
    try:
        done = made.supervisor.ask(Load(model.name, True), Done, made.settings.load_timeout + 60)
    except ServiceError as error:
        _say(f"\nvllm-obtain answers at {url}, but its model does not:\n  {error.message}\n")
        return
    _warn(made)
    path, asked = "/v1/chat/completions", _CHAT
    if model.kind == "embedding":
        path, asked = "/v1/embeddings", {"input": _JOKE}
    shown = json.dumps({"model": model.name, **asked})
    key = _KEY if made.keys.required else ""
    told = {"url": url, "path": path, "model": model.name, "engine": done.engine}
    _say(_BANNER.format(**told, key=key, body=shown))


def _warn(made: Services) -> None:
    """Tell of settings that mean nothing today; a model may be put there later."""
    for name in unused_pins(made.catalogue.known(), made.settings):
        log.warning("MODEL_ENGINES names a model that is not here", model=name)
    for name in unused_tables(made.catalogue, made.settings):
        log.warning("MODEL_SETTINGS names a model that is not here", model=name)
    for alias in hidden_aliases(made.catalogue, made.settings):
        log.warning("an alias is hidden by a model of that name", alias=alias)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
