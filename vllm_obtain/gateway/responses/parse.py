"""Parses the body of POST /v1/responses, and rejects what is not supported."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.gateway.responses.items import GivenItem, Message
from vllm_obtain.gateway.responses.request_types import ResponsesRequest
from vllm_obtain.gateway.responses.unsupported import check, explain
from vllm_obtain.protocol.parsing import convert, decode, finite_number


class _Items(Struct):
    input: list[GivenItem]


_decoder = msgspec.json.Decoder(ResponsesRequest, float_hook=finite_number)


def parse(body: bytes) -> tuple[ResponsesRequest, list[GivenItem]]:
    """Read the body of POST /v1/responses.

    Returns:
        The fields, and the items of `input`; plain text becomes a user message.

    Raises:
        InvalidRequest: the body is invalid or uses an unsupported feature.
    """
    try:
        request = decode(body, _decoder)
        check(request)
        return request, _items(request)
    except InvalidRequest as error:
        raise explain(body) or error from None


def _items(request: ResponsesRequest) -> list[GivenItem]:
    if request.input is None:
        return []
    if isinstance(request.input, str):
        return [Message(role="user", content=request.input)]
    return convert({"input": [_plain(item) for item in request.input]}, _Items).input


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    """Normalize an item: OpenAI's libraries send null for an omitted field."""
    plain = {name: value for name, value in item.items() if value is not None}
    if "type" not in plain:
        plain["type"] = "item_reference" if plain.keys() == {"id"} else "message"
    for name in ("content", "output"):
        if isinstance(plain.get(name), list):
            plain[name] = [_without_null(part) for part in plain[name]]
    return plain


def _without_null(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {name: value for name, value in part.items() if value is not None}
