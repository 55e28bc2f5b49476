"""The routes under /v1/responses."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import msgspec
from flask import Response, g, request
from msgspec import Meta, Struct

from vllm_obtain.api import entry
from vllm_obtain.api.inference import answer
from vllm_obtain.api.reading import read_body
from vllm_obtain.api.reply import reply
from vllm_obtain.api.responses.asked import parse
from vllm_obtain.api.responses.render import ResponsesRenderer
from vllm_obtain.api.responses.shapes import Deleted, ItemList
from vllm_obtain.api.responses.store import Responses
from vllm_obtain.api.responses.translate import own_words, to_chat
from vllm_obtain.api.services import services
from vllm_obtain.errors import InvalidRequest, ResponseNotFound, UnsupportedParameter
from vllm_obtain.protocol.answers import error_body


class Page(Struct, forbid_unknown_fields=True):
    """Which of the input items are wanted."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


def create() -> Response:
    """POST /v1/responses."""
    g.error_body = lambda error: error_body(own_words(error))
    asked, given = parse(read_body())
    kept = _kept()
    items = kept.resolve(given)
    before = kept.conversation(asked.previous_response_id)
    chat = to_chat(asked, [*before, *items], len(before))
    keep = partial(kept.keep, given=items)
    return answer(chat, partial(ResponsesRenderer, asked=asked, keep=keep))


def show(name: str) -> Response:
    """GET /v1/responses/{id}."""
    for param, value in request.args.items(multi=True):
        if (param, value.lower()) not in (("stream", "false"), ("include_obfuscation", "false")):
            raise UnsupportedParameter(param, "A kept response is told whole, as it was made.")
    return reply(_kept().show(name))


def delete(name: str) -> Response:
    """DELETE /v1/responses/{id}."""
    _kept().forget(name)
    return reply(Deleted(name))


def cancel(name: str) -> Response:
    """POST /v1/responses/{id}/cancel: a 400, since none is made in the background."""
    _kept().show(name)
    raise InvalidRequest(
        "Cannot cancel a synchronous response. To end one that is being made, close its "
        "connection: the engine stops then."
    )


def input_items(name: str) -> Response:
    """GET /v1/responses/{id}/input_items."""
    page = _page()
    items = _kept().input_items(name)
    if page.order == "desc":
        items.reverse()
    if page.after is not None:
        found = next((at for at, item in enumerate(items) if item.id == page.after), None)
        if found is None:
            raise ResponseNotFound(f"Item with id '{page.after}'", "after")
        items = items[found + 1 :]
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
            raise UnsupportedParameter(name, "This list takes 'after', 'limit' and 'order'.")
    name = "order" if request.args.get("order", "asc") not in ("asc", "desc") else "limit"
    raise InvalidRequest(
        f"Invalid '{name}': 'limit' is a number from 1 to 100, 'order' is asc or desc.", param=name
    )


def _kept() -> Responses:
    return Responses(services().supervisor, entry.owner())
