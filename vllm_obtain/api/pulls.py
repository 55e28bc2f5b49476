"""Fetching models over HTTP: the supervisor has it done; here it is asked for and told of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
from flask import Response
from msgspec import UNSET, Struct, UnsetType

from vllm_obtain.api.answers import ErrorDetail
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import Services, services
from vllm_obtain.errors import ServiceError, SettingsError
from vllm_obtain.fetching.fetch import Request, understand
from vllm_obtain.messages import (
    Pull,
    PullCancel,
    PullNews,
    Pulls,
    PullsReply,
    PullState,
    Remove,
    Removed,
)
from vllm_obtain.protocol.parse import decode

# Seconds without news after which a stream says the same once more, so that nobody thinks it dead.
QUIET = 5.0
# Seconds for which a stream's head waits, so that what fails at once has an honest status.
FIRST = 20.0
_DONE = b"data: [DONE]\n\n"


class BrokenNames(ServiceError):
    """The owner's file of names cannot be used; the message says where."""

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
    """How far a pull is."""

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
    """The pulls that run, and those that ended within the hour; the newest first."""

    data: list[PullAnswer]
    object: str = "list"


class Deleted(Struct):
    """A model that is gone."""

    id: str
    paths: list[str]
    bytes: int
    deleted: bool = True
    object: str = "model.deleted"


_body = msgspec.json.Decoder(PullBody)


def pull() -> Response:
    """POST /v1/models/pull."""
    made = services()
    body = decode(read_body(), _body)
    # What cannot be meant is refused here, before anybody starts a process for it.
    asked = Request(body.model, body.name, body.format, body.force, here=False)
    try:
        understand(asked, made.settings.models_dir)
    except SettingsError as error:
        raise BrokenNames(str(error), retry=False) from error
    return followed(Pull(body.model, body.name, body.format, body.force), body.stream)


def followed(asked: Pull, stream: bool) -> Response:
    """Have the supervisor do something with a model's files, and tell how far it is.

    Args:
        asked: what.
        stream: whether as events; else the answer comes at the end.
    """
    made = services()
    states = begun(made, asked)
    if not stream:
        return reply(_answer(end_of(states)))
    first = next(states)
    return Response(_stream(made, first, states), content_type="text/event-stream", headers=HEADERS)


def begun(made: Services, asked: Pull) -> Iterator[PullState]:
    """Have something done, and yield how far it is, beginning when there is something to tell.

    Raises:
        ServiceError: it failed before that, or the supervisor is gone.
    """
    state = _beyond_looking(made, made.supervisor.ask(asked, PullState))
    if state.status == "failed":
        raise failure(state)
    yield state
    while not state.is_over:
        state = _next(made, state)
        yield state


def end_of(states: Iterator[PullState]) -> PullState:
    """Wait for the end.

    Raises:
        ServiceError: it failed.
    """
    for state in states:
        last = state
    if last.status == "failed":
        raise failure(last)
    return last


def pulls() -> Response:
    """GET /v1/models/pulls."""
    told = services().supervisor.ask(Pulls(), PullsReply)
    return reply(PullList([_answer(each) for each in told.pulls]))


def cancel(id: str) -> Response:
    """DELETE /v1/models/pull/{id}."""
    return reply(_answer(services().supervisor.ask(PullCancel(id), PullState, 30)))


def delete(name: str) -> Response:
    """DELETE /v1/models/{id}."""
    made = services()
    model = made.catalogue.find(name)
    removed = made.supervisor.ask(Remove(model.name), Removed, 120)
    return reply(Deleted(model.name, removed.paths, removed.size))


HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def _beyond_looking(made: Services, state: PullState) -> PullState:
    waited = 0.0
    while state.status == "looking" and waited < FIRST:
        before, state = state, _next(made, state)
        waited += QUIET if state.version == before.version else 0
    return state


def _next(made: Services, state: PullState) -> PullState:
    news = PullNews(state.id, state.version, QUIET)
    return made.supervisor.ask(news, PullState, QUIET + 10)


def _stream(made: Services, first: PullState, states: Iterator[PullState]) -> Iterator[bytes]:
    try:
        for state in itertools.chain([first], states):
            yield _event(_answer(state))
            if made.draining:
                break
    except ServiceError as error:
        yield _event({"error": _detail(error)})
    yield _DONE


def failure(state: PullState) -> ServiceError:
    """The error that a failed pull ended with, to be raised."""
    made = ServiceError(
        state.error,
        status=state.error_status or 502,
        code=state.error_code or "fetch_failed",
        param="model" if state.error_status < 500 else None,
        retry=False,
    )
    made.type = "invalid_request_error" if made.status < 500 else "server_error"
    return made


def _answer(state: PullState) -> PullAnswer:
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
