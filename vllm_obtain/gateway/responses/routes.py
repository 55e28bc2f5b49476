"""Routes of the Responses API."""

from __future__ import annotations

from vllm_obtain.gateway.core import error_codes as codes
from vllm_obtain.gateway.core.route import Route
from vllm_obtain.gateway.responses import handlers, stream_types
from vllm_obtain.gateway.responses.items import GivenItem
from vllm_obtain.gateway.responses.request_types import ResponsesRequest
from vllm_obtain.gateway.responses.response_types import (
    Deleted,
    InputTokens,
    ItemList,
    ResponseBody,
)

_RESPONSE_ID = {"name": "The id of the response."}


class Request(ResponsesRequest, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/responses; `conversation` and the fields after it are not supported."""

    # Described in more detail than it is parsed at first, because items may omit fields.
    input: str | list[GivenItem] | None = None  # type: ignore[assignment]


_EVENTS = (
    stream_types.Created,
    stream_types.InProgress,
    stream_types.ItemAdded,
    stream_types.PartAdded,
    stream_types.TextDelta,
    stream_types.TextDone,
    stream_types.PartDone,
    stream_types.ThoughtDelta,
    stream_types.ThoughtDone,
    stream_types.SummaryAdded,
    stream_types.SummaryDelta,
    stream_types.SummaryTextDone,
    stream_types.SummaryDone,
    stream_types.ArgumentsDelta,
    stream_types.ArgumentsDone,
    stream_types.ItemDone,
    stream_types.Completed,
    stream_types.IncompleteEvent,
    stream_types.Failed,
    stream_types.ErrorEvent,
)

ROUTES = [
    Route(
        "POST",
        "/v1/responses",
        handlers.create,
        "Create a response.",
        "Responses",
        response=ResponseBody,
        body=Request,
        events=_EVENTS,
        errors=(*codes.GENERATE, "response_not_found", "previous_response_not_found"),
        example={
            "model": "smollm2-135m",
            "input": "Why is the sky blue?",
            "max_output_tokens": 60,
        },
        details="The response is stored unless `store` is false. `previous_response_id` continues "
        "a stored response. In items of `input`, null equals an omitted field, and an item "
        "without `type` is a message.",
    ),
    Route(
        "POST",
        "/v1/responses/input_tokens",
        handlers.input_tokens,
        "Count the input tokens of a response.",
        "Responses",
        response=InputTokens,
        body=Request,
        errors=(
            *codes.ENGINE,
            *codes.CHAT,
            "response_not_found",
            "previous_response_not_found",
        ),
        example={"model": "smollm2-135m", "input": "Why is the sky blue?"},
        details="Nothing is generated or stored. Counts the tokens of the prompt that the same "
        "body makes at `/v1/responses`.",
    ),
    Route(
        "GET",
        "/v1/responses/<name>",
        handlers.show,
        "Show a stored response.",
        "Responses",
        response=ResponseBody,
        errors=(*codes.STORED, "unsupported_parameter"),
        path_parameters=_RESPONSE_ID,
        details="Streaming is not supported: the query parameters `stream` and "
        "`include_obfuscation` may only be false.",
    ),
    Route(
        "DELETE",
        "/v1/responses/<name>",
        handlers.delete,
        "Delete a stored response.",
        "Responses",
        response=Deleted,
        errors=codes.STORED,
        path_parameters=_RESPONSE_ID,
    ),
    Route(
        "GET",
        "/v1/responses/<name>/input_items",
        handlers.input_items,
        "List the input items of a response.",
        "Responses",
        response=ItemList,
        errors=(*codes.STORED, "unsupported_parameter", "invalid_value"),
        path_parameters=_RESPONSE_ID,
        query=handlers.Page,
    ),
    Route(
        "POST",
        "/v1/responses/<name>/cancel",
        handlers.cancel,
        "Cancel a response (not supported).",
        "Responses",
        response=None,
        errors=(*codes.STORED, "invalid_value"),
        path_parameters=_RESPONSE_ID,
        details="Responses do not run in the background. To stop one, close its connection.",
    ),
]
