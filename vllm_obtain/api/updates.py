"""New versions of models over HTTP, and whether files are what was fetched."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from flask import Response, request
from msgspec import Struct

from vllm_obtain.api.pulls import followed
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import services
from vllm_obtain.errors import UnsupportedParameter
from vllm_obtain.fetching.comparing import fetched
from vllm_obtain.messages import Look, Looked, Pull
from vllm_obtain.protocol.parse import decode

# Seconds for hubs that do not answer, one after the other; and for a disk to read all models.
_HUBS, _DISK = 300, 3600


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
    """A file that would change, and the bytes that would come."""

    path: str
    change: Literal["new", "changed", "removed"]
    size: int | None = None


class ModelUpdate(Struct):
    """What an update of a model would be; `failed`: its source says nothing of it."""

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
    """The models that were fetched, compared with their sources."""

    data: list[ModelUpdate]
    object: str = "list"


class ModelVerdict(Struct):
    """What is wrong with a model's files."""

    name: str
    asked: str
    source: str
    faults: list[str]
    object: str = "model.verdict"


class VerdictList(Struct):
    """The models that were fetched, compared with their manifests."""

    data: list[ModelVerdict]
    object: str = "list"


_update = msgspec.json.Decoder(UpdateBody)
_rollback = msgspec.json.Decoder(RollbackBody)
_verify = msgspec.json.Decoder(VerifyBody)


def updates() -> Response:
    """GET /v1/models/updates."""
    for each in request.args:
        if each != "model":
            raise UnsupportedParameter(each, "Only 'model' can be asked for here.")
    name = request.args.get("model", "")
    if not fetched(services().settings.models_dir, [name] if name else []):
        return reply(UpdateList([]))
    found = _look("look", name, _HUBS)
    return reply(UpdateList(msgspec.convert(found, list[ModelUpdate])))


def update() -> Response:
    """POST /v1/models/update."""
    body = decode(read_body(), _update)
    _require(body.model)
    return followed(Pull(body.model, task="update", keep=body.keep), body.stream)


def rollback() -> Response:
    """POST /v1/models/rollback."""
    body = decode(read_body(), _rollback)
    _require(body.model)
    return followed(Pull(body.model, task="rollback"), body.stream)


def verify() -> Response:
    """POST /v1/models/verify."""
    found = _look("verify", decode(read_body(), _verify).model, _DISK)
    return reply(VerdictList(msgspec.convert(found, list[ModelVerdict])))


def _require(name: str) -> None:
    """Refuse a name that was not fetched, before anybody starts a process for it."""
    fetched(services().settings.models_dir, [name])


def _look(task: str, name: str, patience: float) -> Any:
    asked = Look(task, [name] if name else [])
    told = services().supervisor.ask(asked, Looked, patience)
    return msgspec.json.decode(told.report)
