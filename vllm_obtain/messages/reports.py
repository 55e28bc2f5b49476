"""How it is, what was counted, and who is refused."""

from __future__ import annotations

from msgspec import Struct, field

from vllm_obtain.messages.base import Message


class Status(Message, frozen=True):
    """Ask what is going on. → StatusReply."""


class EngineStatus(Struct, frozen=True):
    """One engine process, as the status page shows it. Memory in bytes, times in seconds.

    A model that changes its engine has several: one that serves, one that starts, those that
    finish what they have. `reason` says why this engine serves this model, `stage` how far a
    conversion or a start is. `quiet_seconds` is how long it has made no step though it has work.
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


class Handover(Struct, frozen=True, rename={"source": "from"}):
    """A model's move from one engine to another.

    Args:
        at: when it was over, seconds since 1970.
        model: the model's name.
        source: the engine before.
        to: the engine that took over, or should have.
        cause: `switch` (somebody asked for it), `failover`, or `update` (the model has new files).
        seconds: until the new one was ready, or had failed.
        reason: why, in a sentence.
        problem: why it failed, None when it did not.
    """

    at: float
    model: str
    source: str
    to: str
    cause: str
    seconds: float
    reason: str
    problem: str | None = None


class StatusReply(Message, frozen=True):
    """What is going on."""

    pid: int
    uptime: float
    engines: list[EngineStatus]
    system: dict[str, float]
    in_flight: int
    cache: dict[str, int]
    responses: dict[str, int] = field(default_factory=dict)
    handovers: list[Handover] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)


class Metrics(Message, frozen=True):
    """Ask for all numbers. → MetricsReply."""


class MetricsReply(Message, frozen=True):
    """All numbers in Prometheus' text format."""

    text: str


class Served(Struct, frozen=True, array_like=True):
    """One HTTP request that was answered.

    Args:
        route: the rule it matched, never the raw path.
        method: GET, POST, …
        status: the HTTP status.
        seconds: from its arrival to its last byte.
        cache: `hit`, `miss` or empty.
        key: the id of the caller's key, empty where there is none.
    """

    route: str
    method: str
    status: int
    seconds: float
    cache: str = ""
    key: str = ""


class Report(Message, frozen=True):
    """Requests a worker answered since its last report. No answer.

    Args:
        served: the requests.
        spans_lost: spans of traces that did not reach their collector.
    """

    served: list[Served]
    spans_lost: int = 0


class Usage(Message, frozen=True):
    """Ask what each key took. → UsageReply."""


class KeyUsage(Struct):
    """What a key took since the supervisor started; times in seconds since 1970."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    last_used: float | None = None


class UsageReply(Message, frozen=True):
    """What each key took, by its id."""

    keys: dict[str, KeyUsage]


class Suspects(Message, frozen=True):
    """Ask which requests are refused since they crash engines. → QuarantineReply."""


class Quarantined(Struct, frozen=True):
    """A request that is refused since it crashes its engine.

    Args:
        id: a fingerprint of what it asks.
        model: the model's name.
        engine: the engine that it crashed.
        crashes: how often.
        status: the engine's last exit status.
        since: when it crashed last, seconds since 1970.
        seconds_left: until it may try again.
    """

    id: str
    model: str
    engine: str
    crashes: int
    status: int
    since: float
    seconds_left: float


class QuarantineReply(Message, frozen=True):
    """The requests that are refused."""

    refused: list[Quarantined]


class Pardon(Message, frozen=True):
    """Refuse none of them any more. → Pardoned."""


class Pardoned(Message, frozen=True):
    """How many were refused until now."""

    count: int
