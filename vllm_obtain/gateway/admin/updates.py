"""Routes that check, update, roll back and verify downloaded models."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from flask import Response, request
from msgspec import Struct

from vllm_obtain.control.messages import InspectModels, ModelsInspected, StartDownload
from vllm_obtain.download.update_check import downloaded_models
from vllm_obtain.errors import UnsupportedParameter
from vllm_obtain.gateway.admin.downloads import start_and_respond
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import current_services
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.protocol.parsing import decode

# Seconds. Sources that do not respond are checked one after the other; verifying reads all files.
_UPDATES_TIMEOUT, _VERIFY_TIMEOUT = 300, 3600


class UpdateBody(Struct, forbid_unknown_fields=True):
    """The body of POST /v1/models/update."""

    model: str
    keep: bool = True
    stream: bool = True


class RollbackBody(Struct, forbid_unknown_fields=True):
    """The body of POST /v1/models/rollback."""

    model: str
    stream: bool = True


class VerifyBody(Struct, forbid_unknown_fields=True):
    """The body of POST /v1/models/verify."""

    model: str = ""


class UpdatesQuery(Struct, forbid_unknown_fields=True):
    """The query of GET /v1/models/updates."""

    model: str = ""


class FileUpdate(Struct):
    """A file that an update would change, and the size of its download."""

    path: str
    change: Literal["new", "changed", "removed"]
    size: int | None = None


class ModelUpdate(Struct):
    """The available update of a model."""

    name: str
    state: Literal["current", "update", "failed"]
    source: str
    here: str
    there: str
    files: list[FileUpdate]
    download: int | None
    previous: bool
    error: str
    object: str = "model.update"


class UpdateList(Struct):
    """Available updates of downloaded models."""

    data: list[ModelUpdate]
    object: str = "list"


class ModelVerdict(Struct):
    """The result of verifying a model's files."""

    name: str
    asked: str
    source: str
    faults: list[str]
    object: str = "model.verdict"


class VerdictList(Struct):
    """Results of verifying downloaded models."""

    data: list[ModelVerdict]
    object: str = "list"


_update = msgspec.json.Decoder(UpdateBody)
_rollback = msgspec.json.Decoder(RollbackBody)
_verify = msgspec.json.Decoder(VerifyBody)


def updates() -> Response:
    """GET /v1/models/updates."""
    for param in request.args:
        if param != "model":
            raise UnsupportedParameter(param, "The only query parameter is 'model'.")
    name = request.args.get("model", "")
    if not downloaded_models(current_services().settings.models_dir, [name] if name else []):
        return reply(UpdateList([]))
    report = _inspect("look", name, _UPDATES_TIMEOUT)
    return reply(UpdateList(msgspec.convert(report, list[ModelUpdate])))


def update() -> Response:
    """POST /v1/models/update."""
    body = decode(read_body(), _update)
    _require(body.model)
    message = StartDownload(body.model, task="update", keep=body.keep)
    return start_and_respond(message, body.stream)


def rollback() -> Response:
    """POST /v1/models/rollback."""
    body = decode(read_body(), _rollback)
    _require(body.model)
    return start_and_respond(StartDownload(body.model, task="rollback"), body.stream)


def verify() -> Response:
    """POST /v1/models/verify."""
    report = _inspect("verify", decode(read_body(), _verify).model, _VERIFY_TIMEOUT)
    return reply(VerdictList(msgspec.convert(report, list[ModelVerdict])))


def _require(name: str) -> None:
    """Reject a model that was not downloaded, before the supervisor starts a process for it."""
    downloaded_models(current_services().settings.models_dir, [name])


def _inspect(task: str, name: str, timeout: float) -> Any:
    message = InspectModels(task, [name] if name else [])
    result = current_services().supervisor.request(message, ModelsInspected, timeout)
    return msgspec.json.decode(result.report)
