"""Models: which there are, loading and unloading them."""

from __future__ import annotations

import msgspec
from flask import Response
from msgspec.structs import replace

from vllm_obtain.api.answers import Capabilities, ModelBody, ModelList, ModelStage, ModelState
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.reply import reply
from vllm_obtain.api.services import Services, services
from vllm_obtain.catalogue import Model
from vllm_obtain.chat.speaker import capabilities
from vllm_obtain.engines import sight
from vllm_obtain.engines.choice import why_not
from vllm_obtain.messages import Done, Load, Unload
from vllm_obtain.protocol.parse import decode
from vllm_obtain.setting_kinds import engine_name


class LoadBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/models/load."""

    model_name: str
    wait: bool = True
    engine: str | None = None


class UnloadBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/models/unload."""

    model_name: str


_load = msgspec.json.Decoder(LoadBody)
_unload = msgspec.json.Decoder(UnloadBody)


def index() -> Response:
    """GET /v1/models."""
    made = services()
    data = []
    for model in made.catalogue.models():
        described = describe(made, model)
        data.append(described)
        data += [_as(alias, described) for alias in described.aliases]
    return reply(ModelList(data))


def show(name: str) -> Response:
    """GET /v1/models/{id}."""
    made = services()
    described = describe(made, made.catalogue.find(name))
    same = (alias for alias in described.aliases if alias.casefold() == name.casefold())
    alias = next(same, None)
    return reply(_as(alias, described) if alias else described)


def load() -> Response:
    """POST /v1/models/load: ready when it answers, or 202 with `"wait": false`.

    With an `engine` the model is moved there while requests run; `auto` is the best one here.
    """
    made = services()
    body = decode(read_body(), _load)
    model = made.catalogue.find(body.model_name)
    # The supervisor keeps LOAD_TIMEOUT; waiting for other models to leave comes on top.
    timeout = made.settings.load_timeout + made.settings.request_timeout if body.wait else 10
    engine = engine_name(body.engine) if body.engine is not None else None
    done = made.supervisor.ask(Load(model.name, body.wait, engine), Done, timeout)
    if done.state == "ready":
        return reply(ModelState(model.name, done.engine, done.state))
    return reply(ModelStage(model.name, done.engine, done.state, done.stage), 202)


def unload() -> Response:
    """POST /v1/models/unload: answers when the model has finished its requests and is gone."""
    made = services()
    body = decode(read_body(), _unload)
    model = made.catalogue.find(body.model_name)
    done = made.supervisor.ask(
        Unload(model.name), Done, made.settings.request_timeout + made.settings.load_timeout
    )
    return reply(ModelState(model.name, done.engine, done.state))


def describe(made: Services, model: Model) -> ModelBody:
    """Describe a model as OpenAI does, and say what else is known of it."""
    problem = why_not(model, made.settings)
    settings = made.model_settings.of(model.name)
    known = capabilities(model, settings.chat_template)
    if known is not None:
        blind = sight.why_not(model, made.settings)
        known |= {"vision": blind is None, "vision_reason": blind}
    return ModelBody(
        id=model.name,
        created=int(model.modified),
        root=model.name,
        parent=model.base,
        alias_of=None,
        aliases=made.catalogue.aliases(model),
        kind=model.kind,
        format=model.format,
        size_bytes=model.size_bytes,
        architecture=model.architecture,
        context_length=settings.context or model.context_length,
        capabilities=msgspec.convert(known, Capabilities | None),
        loadable=problem is None,
        reason=problem,
    )


def _as(alias: str, described: ModelBody) -> ModelBody:
    """Describe an alias, for clients that look for a name in the list."""
    return replace(described, id=alias, alias_of=described.id, aliases=[])
