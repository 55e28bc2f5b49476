"""Messages of status, metrics, usage and quarantine."""

from __future__ import annotations

from msgspec import Struct, field

from vllm_obtain.control.messages.base import Count, Reply, Request


class Status(Request, frozen=True):
    """Ask for the status. → StatusReply."""


class EngineStatus(Struct, frozen=True):
    """One engine of the status page. Memory in bytes, times in seconds.

    During a switch a model has several engines: one that serves, one that starts, and those that
    drain. `reason` is why the engine was selected, `stage` the progress of a conversion or a start,
    and `quiet_seconds` the time without a step although the engine has requests.
    """

    engine: str
    model: str
    state: str
    pid: int | None
    memory_bytes: int | None
    in_flight: int
    queue: int
    restarts: int
    last_error: str | None
    slots: int | None
    context: int | None
    tokens_reserved: int
    tokens_pool: int | None
    load_seconds: float | None
    idle_seconds: float | None
    reason: str | None = None
    stage: str | None = None
    healthy: bool = True
    quiet_seconds: float = 0.0
    stalls: int = 0
    reserved_bytes: int = 0


class EngineSwitch(Struct, frozen=True, rename={"source": "from"}):
    """An engine switch, a failover, or an update of a loaded model.

    Args:
        at: its end, Unix time in seconds.
        model: name of the model.
        source: the previous engine.
        to: the new engine.
        cause: `switch` (requested), `failover`, or `update` (the model has new files).
        seconds: duration until the new engine was ready or had failed.
        reason: the reason, as a sentence.
        problem: error message if it failed, else None.
    """

    at: float
    model: str
    source: str
    to: str
    cause: str
    seconds: float
    reason: str
    problem: str | None = None


class StatusReply(Reply, frozen=True):
    """The status of the service."""

    pid: int
    uptime: float
    engines: list[EngineStatus]
    system: dict[str, float]
    in_flight: int
    cache: dict[str, int]
    responses: dict[str, int] = field(default_factory=dict)
    handovers: list[EngineSwitch] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)


class Metrics(Request, frozen=True):
    """Ask for the metrics. → MetricsReply."""


class MetricsReply(Reply, frozen=True):
    """All metrics in the Prometheus text format."""

    text: str


class RequestRecord(Struct, frozen=True, array_like=True):
    """One completed HTTP request.

    Args:
        route: the matched URL rule, never the raw path.
        method: the HTTP method.
        status: the HTTP status.
        seconds: time from its arrival to the last byte of the response.
        cache: `hit`, `miss` or empty.
        key: id of the API key, empty without one.
        violations: a JSON Schema keyword for each violation in the arguments of its tool calls.
    """

    route: str
    method: str
    status: int
    seconds: float
    cache: str = ""
    key: str = ""
    violations: tuple[str, ...] = ()


class ReportRequests(Request, frozen=True):
    """Report the completed requests of a worker since its last report. No reply.

    Args:
        served: the requests.
        spans_lost: trace spans that did not reach the collector.
    """

    served: list[RequestRecord]
    spans_lost: Count = 0


class Usage(Request, frozen=True):
    """Ask for the usage of each key. → UsageReply."""


class KeyUsage(Struct):
    """Usage of a key since the supervisor started; `last_used` is Unix time in seconds."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    last_used: float | None = None


class UsageReply(Reply, frozen=True):
    """Usage by id of the key."""

    keys: dict[str, KeyUsage]


class ListQuarantine(Request, frozen=True):
    """List the quarantined requests. → QuarantineReply."""


class QuarantineEntry(Struct, frozen=True):
    """A quarantined request: it is rejected because it crashed its engine.

    Args:
        id: content hash of the request.
        model: name of the model.
        engine: the crashed engine.
        crashes: number of crashes.
        status: exit status of the last crash.
        since: time of the last crash, Unix time in seconds.
        seconds_left: remaining seconds of the quarantine.
    """

    id: str
    model: str
    engine: str
    crashes: int
    status: int
    since: float
    seconds_left: float


class QuarantineReply(Reply, frozen=True):
    """The quarantined requests."""

    refused: list[QuarantineEntry]


class ClearQuarantine(Request, frozen=True):
    """Clear the quarantine. → QuarantineCleared."""


class QuarantineCleared(Reply, frozen=True):
    """The number of requests that were quarantined."""

    count: int
