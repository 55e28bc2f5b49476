"""Routes that download and delete models in Ollama's format."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from flask import Response

from vllm_obtain.control.messages import DownloadState, ModelRemoved, RemoveModel, StartDownload
from vllm_obtain.download.download import PullRequest, validate
from vllm_obtain.download.update_check import downloaded_models
from vllm_obtain.errors import (
    InvalidRequest,
    NotFetched,
    ServiceError,
    SettingsError,
    UnsupportedParameter,
)
from vllm_obtain.gateway.admin import downloads
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import Services, current_services
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.gateway.ollama.errors import error_body
from vllm_obtain.gateway.ollama.request_types import DeleteBody, PullBody
from vllm_obtain.gateway.ollama.response_types import PullAnswer
from vllm_obtain.gateway.ollama.translate import LATEST
from vllm_obtain.protocol.parsing import decode

# Ollama's names of Hugging Face repositories, with the quantization as a tag.
_REPOSITORY = re.compile(r"(?:hf\.co|huggingface\.co)/([^:]+)(?::(.+))?")
_STATUS_TEXTS = {
    "looking": "pulling manifest",
    "waiting": "pulling manifest",
    "checking": "verifying sha256 digest",
    "loading": "writing manifest",
    "success": "success",
}

_pull = msgspec.json.Decoder(PullBody)
_delete = msgspec.json.Decoder(DeleteBody)


def pull() -> Response:
    """POST /api/pull. Updates a model that is already downloaded, like Ollama."""
    body = decode(read_body(), _pull)
    if body.insecure:
        raise UnsupportedParameter("insecure", "Downloads are always verified; remove the field.")
    services = current_services()
    message = _task_for(services, _require_name(body.model or body.name))
    states = downloads.start(services, message)
    if not body.stream:
        downloads.wait_for_end(states)
        return reply(PullAnswer("success"))
    first = next(states)
    return Response(
        _lines(services, first, states),
        content_type="application/x-ndjson",
        headers=downloads.HEADERS,
    )


def delete() -> Response:
    """DELETE /api/delete."""
    body = decode(read_body(), _delete)
    services = current_services()
    model = services.catalogue.find(_require_name(body.model or body.name))
    services.supervisor.request(RemoveModel(model.name), ModelRemoved, 120)
    return Response(mimetype="text/plain")


def _task_for(services: Services, name: str) -> StartDownload:
    """Return the task of a pull: an update of a downloaded model, or a download."""
    name = name.removesuffix(LATEST)
    if match := _REPOSITORY.fullmatch(name):
        name = f"hf:{match[1]}" + (f":*{match[2]}*.gguf" if match[2] else "")
    try:
        source = validate(PullRequest(name, allow_paths=False), services.settings.models_dir)
        downloaded_models(services.settings.models_dir, [source.name])
    except SettingsError as error:
        raise downloads.BrokenNames(str(error), retry=False) from error
    except NotFetched:
        return StartDownload(name)
    return StartDownload(source.name, task="update")


def _require_name(name: str) -> str:
    if not name:
        raise InvalidRequest(
            "Missing required parameter: 'model'.",
            param="model",
            code="missing_required_parameter",
        )
    return name


def _lines(
    services: Services, state: DownloadState, states: Iterator[DownloadState]
) -> Iterator[bytes]:
    try:
        yield _line(state)
        for state in states:
            yield _line(state)
            if services.draining:
                break
    except ServiceError as error:
        yield msgspec.json.encode(error_body(error)) + b"\n"


def _line(state: DownloadState) -> bytes:
    if state.status == "failed":
        return msgspec.json.encode(error_body(downloads.failure(state))) + b"\n"
    if state.status == "cancelled":
        return msgspec.json.encode({"error": "The download was cancelled."}) + b"\n"
    line = PullAnswer(_STATUS_TEXTS.get(state.status, f"pulling {state.name or state.model}"))
    if state.total and state.status == "downloading":
        # Clients show bytes per digest, so the whole model gets one digest.
        line.digest, line.total, line.completed = f"pull:{state.id}", state.total, state.completed
    return msgspec.json.encode(line) + b"\n"
