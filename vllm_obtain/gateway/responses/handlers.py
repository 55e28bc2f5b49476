"""The routes under /v1/responses."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import msgspec
from flask import Response, g, request
from msgspec import Meta, Struct

from vllm_obtain.errors import InvalidRequest, ResponseNotFound, UnsupportedParameter
from vllm_obtain.gateway.core.json_response import reply
from vllm_obtain.gateway.core.services import current_services
from vllm_obtain.gateway.inference import model_lookup
from vllm_obtain.gateway.inference.context import parameter_policy
from vllm_obtain.gateway.inference.handler import handle
from vllm_obtain.gateway.middleware import auth
from vllm_obtain.gateway.middleware.body import read_body
from vllm_obtain.gateway.openai import tokenize
from vllm_obtain.gateway.responses.parse import parse
from vllm_obtain.gateway.responses.render import ResponsesRenderer
from vllm_obtain.gateway.responses.response_types import Deleted, InputTokens, ItemList
from vllm_obtain.gateway.responses.store import StoredResponses
from vllm_obtain.gateway.responses.translate import NAMES, to_chat, to_responses_error
from vllm_obtain.protocol.responses import error_body


class Page(Struct, forbid_unknown_fields=True):
    """Pagination of input items."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


def create() -> Response:
    """POST /v1/responses."""
    g.error_body = lambda error: error_body(to_responses_error(error))
    policy = parameter_policy()
    policy.names = NAMES
    body, references = parse(read_body(), policy.unknown, policy.ignored)
    responses = _stored_responses()
    items = responses.resolve(references)
    history = responses.conversation(body.previous_response_id)
    chat = to_chat(body, [*history, *items], len(history))
    store = partial(responses.store, items=items)
    return handle(chat, partial(ResponsesRenderer, body=body, store=store))


def input_tokens() -> Response:
    """POST /v1/responses/input_tokens."""
    g.error_body = lambda error: error_body(to_responses_error(error))
    services = current_services()
    policy = parameter_policy()
    policy.names = NAMES
    body, references = parse(read_body(), policy.unknown, policy.ignored)
    responses = _stored_responses()
    history = responses.conversation(body.previous_response_id)
    chat = to_chat(body, [*history, *responses.resolve(references)], len(history))
    model = model_lookup.chat_model(services, chat.model)
    return reply(InputTokens(tokenize.count(services, model, chat)))


def show(name: str) -> Response:
    """GET /v1/responses/{id}."""
    for param, value in request.args.items(multi=True):
        if (param, value.lower()) not in (("stream", "false"), ("include_obfuscation", "false")):
            raise UnsupportedParameter(
                param, "Streaming of a stored response is not supported. Omit it."
            )
    return reply(_stored_responses().show(name))


def delete(name: str) -> Response:
    """DELETE /v1/responses/{id}."""
    _stored_responses().delete(name)
    return reply(Deleted(name))


def cancel(name: str) -> Response:
    """POST /v1/responses/{id}/cancel: always a 400; responses do not run in the background."""
    _stored_responses().show(name)
    raise InvalidRequest(
        "Cannot cancel a synchronous response. Close its connection to stop the generation."
    )


def input_items(name: str) -> Response:
    """GET /v1/responses/{id}/input_items."""
    page = _page()
    items = _stored_responses().input_items(name)
    if page.order == "desc":
        items.reverse()
    if page.after is not None:
        index = next((i for i, item in enumerate(items) if item.id == page.after), None)
        if index is None:
            raise ResponseNotFound(f"Item with id '{page.after}'", "after")
        items = items[index + 1 :]
    data = items[: page.limit]
    ends = (data[0].id, data[-1].id) if data else (None, None)
    return reply(ItemList(data, *ends, has_more=len(items) > len(data)))


def _page() -> Page:
    try:
        return msgspec.convert(request.args.to_dict(), Page, strict=False)
    except msgspec.ValidationError:
        pass
    for name in request.args:
        if name not in Page.__struct_fields__:
            raise UnsupportedParameter(name, "Supported: 'after', 'limit' and 'order'.")
    name = "order" if request.args.get("order", "asc") not in ("asc", "desc") else "limit"
    raise InvalidRequest(
        f"Invalid '{name}': 'limit' must be from 1 to 100, and 'order' must be asc or desc.",
        param=name,
    )


def _stored_responses() -> StoredResponses:
    return StoredResponses(current_services().supervisor, auth.owner())
