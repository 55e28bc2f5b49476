"""Routes that download and delete models; the supervisor does the work."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
from flask import Response
from msgspec import UNSET, Struct, UnsetType

from vllm_obtain.control.messages import (
    CancelDownload,
    DownloadList,
    DownloadState,
    ListDownloads,
    ModelRemoved,
    RemoveModel,
    StartDownload,
    WaitForDownload,
)
from vllm_obtain.download.download import PullRequest, validate
from vllm_obtain.errors import ServiceError, SettingsError
from vllm_obtain.gateway.admin.types import ErrorDetail
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import Services, current_services
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.protocol.parsing import decode

# Seconds without progress after which a stream repeats the last event, as a keep-alive.
KEEP_ALIVE_SECONDS = 5.0
# Seconds for which the response headers wait, so that early errors get their own HTTP status.
HEADER_DELAY_SECONDS = 20.0
_DONE = b"data: [DONE]\n\n"


class BrokenNames(ServiceError):
    """MODELS_DIR/catalogue.toml is invalid; the message names the line."""

    status = 503
    code = "names_broken"


class PullBody(Struct, forbid_unknown_fields=True):
    """The body of POST /v1/models/pull."""

    model: str
    name: str = ""
    format: str = ""
    force: bool = False
    stream: bool = True


class PullAnswer(Struct):
    """Progress of a download."""

    id: str
    model: str
    name: str
    created: int
    status: str
    source: str
    completed: int
    total: int
    rate: int
    seconds_left: float | None
    detail: str
    task: str
    error: ErrorDetail | UnsetType = UNSET
    object: str = "model.pull"


class PullList(Struct):
    """Running downloads, and those that ended within the last hour; the newest first."""

    data: list[PullAnswer]
    object: str = "list"


class Deleted(Struct):
    """A deleted model."""

    id: str
    paths: list[str]
    bytes: int
    deleted: bool = True
    object: str = "model.deleted"


_body = msgspec.json.Decoder(PullBody)


def pull() -> Response:
    """POST /v1/models/pull."""
    services = current_services()
    body = decode(read_body(), _body)
    # Reject an invalid name here, before the supervisor starts a process for it.
    request = PullRequest(body.model, body.name, body.format, body.force, allow_paths=False)
    try:
        validate(request, services.settings.models_dir)
    except SettingsError as error:
        raise BrokenNames(str(error), retry=False) from error
    start = StartDownload(body.model, body.name, body.format, body.force)
    return start_and_respond(start, body.stream)


def start_and_respond(message: StartDownload, stream: bool) -> Response:
    """Start a download, update or rollback, and respond with its progress.

    Args:
        message: the task for the supervisor.
        stream: whether to stream progress events; otherwise the response is sent at the end.
    """
    services = current_services()
    states = start(services, message)
    if not stream:
        return reply(_progress(wait_for_end(states)))
    first = next(states)
    return Response(
        _stream(services, first, states), content_type="text/event-stream", headers=HEADERS
    )


def start(services: Services, message: StartDownload) -> Iterator[DownloadState]:
    """Start a task and yield its states, the first one when the source was found.

    Raises:
        ServiceError: the task failed before that, or the supervisor is unavailable.
    """
    state = _wait_for_source(services, services.supervisor.request(message, DownloadState))
    if state.status == "failed":
        raise failure(state)
    yield state
    while not state.is_over:
        state = _next(services, state)
        yield state


def wait_for_end(states: Iterator[DownloadState]) -> DownloadState:
    """Return the last state of a task.

    Raises:
        ServiceError: the task failed.
    """
    for state in states:
        last = state
    if last.status == "failed":
        raise failure(last)
    return last


def pulls() -> Response:
    """GET /v1/models/pulls."""
    downloads = current_services().supervisor.request(ListDownloads(), DownloadList)
    return reply(PullList([_progress(state) for state in downloads.pulls]))


def cancel(id: str) -> Response:
    """DELETE /v1/models/pull/{id}."""
    return reply(
        _progress(current_services().supervisor.request(CancelDownload(id), DownloadState, 30))
    )


def delete(name: str) -> Response:
    """DELETE /v1/models/{id}."""
    services = current_services()
    model = services.catalogue.find(name)
    removed = services.supervisor.request(RemoveModel(model.name), ModelRemoved, 120)
    return reply(Deleted(model.name, removed.paths, removed.size))


HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def _wait_for_source(services: Services, state: DownloadState) -> DownloadState:
    waited = 0.0
    while state.status == "looking" and waited < HEADER_DELAY_SECONDS:
        previous, state = state, _next(services, state)
        waited += KEEP_ALIVE_SECONDS if state.version == previous.version else 0
    return state


def _next(services: Services, state: DownloadState) -> DownloadState:
    message = WaitForDownload(state.id, state.version, KEEP_ALIVE_SECONDS)
    return services.supervisor.request(message, DownloadState, KEEP_ALIVE_SECONDS + 10)


def _stream(
    services: Services, first: DownloadState, states: Iterator[DownloadState]
) -> Iterator[bytes]:
    try:
        for state in itertools.chain([first], states):
            yield _event(_progress(state))
            if services.draining:
                break
    except ServiceError as error:
        yield _event({"error": _detail(error)})
    yield _DONE


def failure(state: DownloadState) -> ServiceError:
    error = ServiceError(
        state.error,
        status=state.error_status or 502,
        code=state.error_code or "fetch_failed",
        param="model" if state.error_status < 500 else None,
        retry=False,
    )
    error.type = "invalid_request_error" if error.status < 500 else "server_error"
    return error


def _progress(state: DownloadState) -> PullAnswer:
    failed = state.status == "failed"
    return PullAnswer(
        state.id,
        state.model,
        state.name,
        state.created,
        state.status,
        state.source,
        state.completed,
        state.total,
        state.rate,
        state.seconds_left,
        state.detail,
        state.task,
        _detail(failure(state)) if failed else UNSET,
    )


def _detail(error: ServiceError) -> ErrorDetail:
    return ErrorDetail(error.message, error.type, error.param, error.code)


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
