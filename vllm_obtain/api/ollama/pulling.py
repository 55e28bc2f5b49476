"""Ollama's way to fetch models and to remove them, done as ours is."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from flask import Response

from vllm_obtain.api import pulls
from vllm_obtain.api.ollama.answers import PullAnswer
from vllm_obtain.api.ollama.errors import error_body
from vllm_obtain.api.ollama.models import find
from vllm_obtain.api.ollama.requests import DeleteBody, PullBody
from vllm_obtain.api.ollama.translate import LATEST
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import Services, services
from vllm_obtain.errors import (
    InvalidRequest,
    NotFetched,
    ServiceError,
    SettingsError,
    UnsupportedParameter,
)
from vllm_obtain.fetching.comparing import fetched
from vllm_obtain.fetching.fetch import Request, understand
from vllm_obtain.messages import Pull, PullState, Remove, Removed
from vllm_obtain.protocol.parse import decode

# How Ollama names repositories of Hugging Face: with the kind of its files as a tag.
_REPOSITORY = re.compile(r"(?:hf\.co|huggingface\.co)/([^:]+)(?::(.+))?")
_WORDS = {
    "looking": "pulling manifest",
    "waiting": "pulling manifest",
    "checking": "verifying sha256 digest",
    "loading": "writing manifest",
    "success": "success",
}

_pull = msgspec.json.Decoder(PullBody)
_delete = msgspec.json.Decoder(DeleteBody)


def pull() -> Response:
    """POST /api/pull; of a model that was fetched it brings the present version, as Ollama does."""
    body = decode(read_body(), _pull)
    if body.insecure:
        raise UnsupportedParameter("insecure", "What is fetched is always checked; leave it out.")
    made = services()
    asked = _asked(made, _named(body.model or body.name))
    states = pulls.begun(made, asked)
    if not body.stream:
        pulls.end_of(states)
        return reply(PullAnswer("success"))
    first = next(states)
    return Response(
        _lines(made, first, states), content_type="application/x-ndjson", headers=pulls.HEADERS
    )


def delete() -> Response:
    """DELETE /api/delete."""
    body = decode(read_body(), _delete)
    made = services()
    model = find(made, _named(body.model or body.name))
    made.supervisor.ask(Remove(model.name), Removed, 120)
    return Response(mimetype="text/plain")


def _asked(made: Services, name: str) -> Pull:
    """What somebody means: a version of what is here that is newer, or something new."""
    name = name.removesuffix(LATEST)
    if found := _REPOSITORY.fullmatch(name):
        name = f"hf:{found[1]}" + (f":*{found[2]}*.gguf" if found[2] else "")
    try:
        wanted = understand(Request(name, here=False), made.settings.models_dir)
        fetched(made.settings.models_dir, [wanted.name])
    except SettingsError as error:
        raise pulls.BrokenNames(str(error), retry=False) from error
    except NotFetched:
        return Pull(name)
    return Pull(wanted.name, task="update")


def _named(name: str) -> str:
    if not name:
        raise InvalidRequest(
            "Missing required parameter: 'model'.",
            param="model",
            code="missing_required_parameter",
        )
    return name


def _lines(made: Services, state: PullState, states: Iterator[PullState]) -> Iterator[bytes]:
    try:
        yield _line(state)
        for state in states:
            yield _line(state)
            if made.draining:
                break
    except ServiceError as error:
        yield msgspec.json.encode(error_body(error)) + b"\n"


def _line(state: PullState) -> bytes:
    if state.status == "failed":
        return msgspec.json.encode(error_body(pulls.failure(state))) + b"\n"
    if state.status == "cancelled":
        return msgspec.json.encode({"error": "It was called off."}) + b"\n"
    told = PullAnswer(_WORDS.get(state.status, f"pulling {state.name or state.model}"))
    if state.total and state.status == "downloading":
        # Clients show bytes of what has a digest; the whole model is one for them.
        told.digest, told.total, told.completed = f"pull:{state.id}", state.total, state.completed
    return msgspec.json.encode(told) + b"\n"
