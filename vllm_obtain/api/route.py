"""What a route is: how it is reached, who answers it, and all that the description says of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vllm_obtain.api import error_codes as refusals
from vllm_obtain.api.answers import ErrorBody

# Who may use a route: everybody; whoever has a key, or one with the scope `admin`; and everybody
# where PUBLIC_DOCS or PUBLIC_METRICS says so.
Access = Literal["open", "inference", "admin", "docs", "metrics"]

_REFUSALS: dict[str, tuple[str, ...]] = {"open": (), "admin": refusals.ADMIN}
_ARGUMENT = re.compile(r"<(?:\w+:)?(\w+)>")


@dataclass(frozen=True)
class Route:
    """One row of the table of routes.

    Args:
        method: GET, POST or DELETE.
        path: as Flask writes it, such as `/v1/models/<path:name>`.
        view: what answers.
        summary: what it is for, in one line.
        tag: the group it belongs to; `TAGS` in `api/routes.py` describes them.
        answer: the type of a plain answer's JSON, or the media type of an answer that is none;
            None for a route that only ever refuses.
        body: the type of the request's JSON, None when it has none.
        events: the type of each event of a streamed answer (or a tuple of types), None when it
            never streams.
        events_type: the media type of a stream.
        events_when: which requests are answered by a stream.
        errors: codes that it may give; `api/error_codes.py` has their statuses and texts.
        error_body: the shape of its errors.
        also: types of answers by other statuses than 200 that are no errors.
        arguments: what the variables in the path are, by name.
        query: a Struct with the parameters of the query, None when it has none.
        example: a body that works, for whoever tries the route.
        details: what a reader should know besides, in a sentence or two.
        kept: whether clients may keep the answer and ask whether it changed (304).
        access: who may use it.
    """

    method: str
    path: str
    view: Callable[..., Any]
    summary: str
    tag: str
    answer: Any
    body: Any = None
    events: Any = None
    events_type: str = "text/event-stream"
    events_when: str = "Events, with `stream` true."
    errors: tuple[str, ...] = ()
    error_body: Any = ErrorBody
    also: Mapping[int, Any] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    query: Any = None
    example: Mapping[str, Any] | None = None
    details: str = ""
    kept: bool = False
    access: Access = "inference"

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it: `/v1/models/{name}`."""
        return _ARGUMENT.sub(r"{\1}", self.path)

    @property
    def endpoint(self) -> str:
        """A name that no other route has; Flask keeps views by it."""
        return f"{self.method} {self.template}"

    @property
    def variables(self) -> list[str]:
        """The names of the variables in the path."""
        return _ARGUMENT.findall(self.path)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of all its errors: its own, and those of whoever may not use it."""
        # A path whose variable holds a line break is of no route.
        more = ("not_found",) if self.variables and "not_found" not in self.errors else ()
        return self.errors + more + _REFUSALS.get(self.access, refusals.ANY)
