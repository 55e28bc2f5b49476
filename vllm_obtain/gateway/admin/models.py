"""Routes that list, load, switch and unload models."""

from __future__ import annotations

import msgspec
from flask import Response
from msgspec.structs import replace

from vllm_obtain.chat.chat_format import capabilities
from vllm_obtain.config.validators import engine_name
from vllm_obtain.control.messages import LoadModel, LoadStatus, UnloadModel
from vllm_obtain.engines import vision
from vllm_obtain.engines.selection import why_not_servable
from vllm_obtain.gateway.admin.types import (
    Capabilities,
    ModelBody,
    ModelList,
    ModelStage,
    ModelState,
)
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import Services, current_services
from vllm_obtain.gateway.inference.context import prepared_within
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.gevent_compat import yield_to_others
from vllm_obtain.models import Model
from vllm_obtain.protocol.parsing import decode


class LoadBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/models/load."""

    model_name: str
    wait: bool = True
    engine: str | None = None


class UnloadBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/models/unload."""

    model_name: str


# Models that are described at once, so that a long list does not delay other requests.
_STEP = 32
# Seconds for chat templates that are new; the capabilities of the others are null for now.
_EXAMINE_SECONDS = 2.0
_load = msgspec.json.Decoder(LoadBody)
_unload = msgspec.json.Decoder(UnloadBody)


def index() -> Response:
    """GET /v1/models."""
    services = current_services()
    data = []
    with prepared_within(services, _EXAMINE_SECONDS):
        for number, model in enumerate(services.catalogue.models(), start=1):
            if number % _STEP == 0:
                yield_to_others()
            body = describe(services, model)
            data.append(body)
            data += [_as(alias, body) for alias in body.aliases]
    return reply(ModelList(data))


def show(name: str) -> Response:
    """GET /v1/models/{id}."""
    services = current_services()
    model = services.catalogue.find(name)
    with prepared_within(services, _EXAMINE_SECONDS):
        body = describe(services, model)
    matches = (alias for alias in body.aliases if alias.casefold() == name.casefold())
    alias = next(matches, None)
    return reply(_as(alias, body) if alias else body)


def load() -> Response:
    """POST /v1/models/load.

    Responds when the model is ready, or at once with a 202 if `wait` is false. An `engine`
    switches the model to it while requests run.
    """
    services = current_services()
    body = decode(read_body(), _load)
    model = services.catalogue.find(body.model_name)
    # The supervisor enforces LOAD_TIMEOUT. The eviction of another model takes additional time.
    timeout = (
        services.settings.load_timeout + services.settings.request_timeout if body.wait else 10
    )
    engine = engine_name(body.engine) if body.engine is not None else None
    status = services.supervisor.request(
        LoadModel(model.name, body.wait, engine), LoadStatus, timeout
    )
    if status.state == "ready":
        return reply(ModelState(model.name, status.engine, status.state))
    return reply(ModelStage(model.name, status.engine, status.state, status.stage), 202)


def unload() -> Response:
    """POST /v1/models/unload. Responds when the running requests are complete."""
    services = current_services()
    body = decode(read_body(), _unload)
    model = services.catalogue.find(body.model_name)
    status = services.supervisor.request(
        UnloadModel(model.name),
        LoadStatus,
        services.settings.request_timeout + services.settings.load_timeout,
    )
    return reply(ModelState(model.name, status.engine, status.state))


def describe(services: Services, model: Model) -> ModelBody:
    """Describe a model with OpenAI's fields and those of this service."""
    problem = why_not_servable(model, services.settings)
    settings = services.model_settings.of(model.name)
    features = capabilities(model, settings.chat_template)
    if features is not None:
        reason = vision.why_not(model, services.settings)
        features |= {"vision": reason is None, "vision_reason": reason}
    return ModelBody(
        id=model.name,
        created=int(model.modified),
        root=model.name,
        parent=model.base,
        alias_of=None,
        aliases=services.catalogue.aliases(model),
        kind=model.kind,
        format=model.format,
        size_bytes=model.size_bytes,
        architecture=model.architecture,
        context_length=settings.context or model.context_length,
        capabilities=msgspec.convert(features, Capabilities | None),
        loadable=problem is None,
        reason=problem,
    )


def _as(alias: str, body: ModelBody) -> ModelBody:
    """Describe an alias, so that clients find its name in the list."""
    return replace(body, id=alias, alias_of=body.id, aliases=[])
