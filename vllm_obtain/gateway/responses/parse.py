"""Parses the body of POST /v1/responses, and rejects what is not supported."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.gateway.responses.items import GivenItem, Message
from vllm_obtain.gateway.responses.request_types import ResponsesRequest, Tool
from vllm_obtain.gateway.responses.unsupported import check, explain, is_built_in
from vllm_obtain.protocol.parsing import convert, decode, finite_number
from vllm_obtain.protocol.tools import MAX_TOOLS


class _Items(Struct):
    input: list[GivenItem]


class _BuiltIn(Struct, tag="built_in"):
    """Stands for a tool of OpenAI's servers, so that the others keep their index in errors."""


class _Tools(Struct):
    tools: list[Tool | _BuiltIn]


class _Body(ResponsesRequest, forbid_unknown_fields=True, kw_only=True):
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] | None = None  # type: ignore[assignment]


_decoder = msgspec.json.Decoder(_Body, float_hook=finite_number)


def parse(
    body: bytes, ignored: list[str] | None = None, dropped: list[str] | None = None
) -> tuple[ResponsesRequest, list[GivenItem]]:
    """Read the body of POST /v1/responses.

    Args:
        body: JSON.
        ignored: list to append the names of unknown and advisory fields to; None rejects them.
        dropped: list to append the built-in tools of OpenAI to, which are dropped.

    Returns:
        The fields, and the items of `input`; plain text becomes a user message.

    Raises:
        InvalidRequest: the body is invalid or uses an unsupported feature.
    """
    try:
        request = decode(body, _decoder, ignored)
        check(request, ignored)
        if request.tools is not None:
            _set_tools(request, request.tools, ignored, [] if dropped is None else dropped)
        return request, _items(request, ignored)
    except InvalidRequest as error:
        raise explain(body) or error from None


def _set_tools(
    request: ResponsesRequest,
    raw: list[dict[str, Any]],
    ignored: list[str] | None,
    dropped: list[str],
) -> None:
    built_in = [f"tools.{tool['type']}" for tool in raw if is_built_in(tool.get("type"))]
    dropped += dict.fromkeys(built_in)
    given = [{"type": "built_in"} if is_built_in(tool.get("type")) else tool for tool in raw]
    tools = convert({"tools": given}, _Tools, ignored).tools
    request.tools = [tool for tool in tools if not isinstance(tool, _BuiltIn)]


def _items(request: ResponsesRequest, ignored: list[str] | None) -> list[GivenItem]:
    if request.input is None:
        return []
    if isinstance(request.input, str):
        return [Message(role="user", content=request.input)]
    return convert({"input": [_plain(item) for item in request.input]}, _Items, ignored).input


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
