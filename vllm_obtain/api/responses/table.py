"""The rows of the Responses API in the table of routes."""

from __future__ import annotations

from vllm_obtain.api import error_codes as codes
from vllm_obtain.api.responses import routes, told
from vllm_obtain.api.responses.asked import Asked
from vllm_obtain.api.responses.items import GivenItem
from vllm_obtain.api.responses.shapes import Deleted, ItemList, ResponseBody
from vllm_obtain.api.route import Route

_NAMED = {"name": "The id of the response."}


class Request(Asked, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/responses; `conversation` and what stands after it are refused."""

    # Told in more detail than it is read at first: items may leave things out.
    input: str | list[GivenItem] | None = None  # type: ignore[assignment]


_EVENTS = (
    told.Created,
    told.InProgress,
    told.ItemAdded,
    told.PartAdded,
    told.TextDelta,
    told.TextDone,
    told.PartDone,
    told.ThoughtDelta,
    told.ThoughtDone,
    told.SummaryAdded,
    told.SummaryDelta,
    told.SummaryTextDone,
    told.SummaryDone,
    told.ArgumentsDelta,
    told.ArgumentsDone,
    told.ItemDone,
    told.Completed,
    told.IncompleteEvent,
    told.Failed,
    told.ErrorEvent,
)

ROUTES = [
    Route(
        "POST",
        "/v1/responses",
        routes.create,
        "Answer a conversation, and keep it.",
        "Responses",
        answer=ResponseBody,
        body=Request,
        events=_EVENTS,
        errors=(*codes.GENERATE, "response_not_found", "previous_response_not_found"),
        example={
            "model": "smollm2-135m",
            "input": "Why is the sky blue?",
            "max_output_tokens": 60,
        },
        details="OpenAI's newer API. With `previous_response_id` a kept conversation goes on. In "
        "an item of `input` null is the same as left out, and one without a `type` is a message.",
    ),
    Route(
        "GET",
        "/v1/responses/<name>",
        routes.show,
        "Show a kept response.",
        "Responses",
        answer=ResponseBody,
        errors=(*codes.KEPT, "unsupported_parameter"),
        arguments=_NAMED,
        details="It is told whole: of the query, `stream` and `include_obfuscation` may be false.",
    ),
    Route(
        "DELETE",
        "/v1/responses/<name>",
        routes.delete,
        "Forget a kept response.",
        "Responses",
        answer=Deleted,
        errors=codes.KEPT,
        arguments=_NAMED,
    ),
    Route(
        "GET",
        "/v1/responses/<name>/input_items",
        routes.input_items,
        "List what a response was made from.",
        "Responses",
        answer=ItemList,
        errors=(*codes.KEPT, "unsupported_parameter", "invalid_value"),
        arguments=_NAMED,
        query=routes.Page,
    ),
    Route(
        "POST",
        "/v1/responses/<name>/cancel",
        routes.cancel,
        "Refuse to cancel a response.",
        "Responses",
        answer=None,
        errors=(*codes.KEPT, "invalid_value"),
        arguments=_NAMED,
        details="None is made in the background. To end one that is being made, close its "
        "connection.",
    ),
]
