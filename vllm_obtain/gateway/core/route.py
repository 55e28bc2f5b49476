"""`Route`: a row of the route table, with everything that the OpenAPI description shows of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vllm_obtain.gateway.admin.types import ErrorBody
from vllm_obtain.gateway.core import error_codes

# Required access: none, any API key, or a key with the scope `admin`. PUBLIC_DOCS and
# PUBLIC_METRICS open `docs` and `metrics` to everybody.
Access = Literal["open", "inference", "admin", "docs", "metrics"]

_ACCESS_ERRORS: dict[str, tuple[str, ...]] = {"open": (), "admin": error_codes.ADMIN}
_PATH_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


@dataclass(frozen=True)
class Route:
    """One row of the route table.

    Args:
        method: GET, POST or DELETE.
        path: the path in Flask's notation, such as `/v1/models/<path:name>`.
        view: the function that handles requests.
        summary: purpose in one line.
        tag: group of the route; `TAGS` in `gateway/routes.py` describes the groups.
        response: type of the JSON of a 200 response, or the media type of a response that is not
            JSON; None for a route that only returns errors.
        body: type of the request's JSON; None without a body.
        events: type of each event of a streamed response, or a tuple of types; None for a route
            that does not stream.
        events_type: media type of a stream.
        events_when: which requests get a stream.
        errors: error codes of the route; `gateway/core/error_codes.py` has their texts.
        error_body: type of the JSON of errors.
        other_responses: types of responses that are not errors and have another status than 200.
        path_parameters: descriptions of the variables in the path, by name.
        query: a Struct with the query parameters; None without any.
        example: a valid request body.
        details: further description, one or two sentences.
        cacheable: whether clients may cache the response and revalidate it (304).
        access: required access.
    """

    method: str
    path: str
    view: Callable[..., Any]
    summary: str
    tag: str
    response: Any
    body: Any = None
    events: Any = None
    events_type: str = "text/event-stream"
    events_when: str = "Server-sent events, if `stream` is true."
    errors: tuple[str, ...] = ()
    error_body: Any = ErrorBody
    other_responses: Mapping[int, Any] = field(default_factory=dict)
    path_parameters: Mapping[str, str] = field(default_factory=dict)
    query: Any = None
    example: Mapping[str, Any] | None = None
    details: str = ""
    cacheable: bool = False
    access: Access = "inference"

    @property
    def template(self) -> str:
        """The path in OpenAPI's notation: `/v1/models/{name}`."""
        return _PATH_PARAMETER.sub(r"{\1}", self.path)

    @property
    def endpoint(self) -> str:
        """A unique name, under which Flask registers the view."""
        return f"{self.method} {self.template}"

    @property
    def variables(self) -> list[str]:
        return _PATH_PARAMETER.findall(self.path)

    @property
    def codes(self) -> tuple[str, ...]:
        """All error codes of the route, those of the access check included."""
        # A path variable with a line break matches no route.
        implied = ("not_found",) if self.variables and "not_found" not in self.errors else ()
        return self.errors + implied + _ACCESS_ERRORS.get(self.access, error_codes.AUTH)
