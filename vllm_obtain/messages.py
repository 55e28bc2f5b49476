"""What the gateway and the supervisor say to each other. Read this file to know the protocol.

A connection to the control socket carries frames (`supervisor/wire.py`), one message each. The
gateway speaks first; every message below names its answer. Closing the connection gives back
whatever it held: a lease, a claim on an answer. So a worker that dies blocks nothing.
"""

from __future__ import annotations

from msgspec import Struct

from vllm_obtain.errors import ServiceError
from vllm_obtain.protocol.apart import Apart


class Message(Struct, tag=True, tag_field="kind", frozen=True):
    """Base of all messages."""


# From the gateway


class Join(Message, frozen=True):
    """Become an owner: the supervisor lives as long as one of its owners. → Welcome.

    Args:
        version: of the code that speaks and its settings (`runtime.version`).
        owner_pid: the gunicorn master, or the development server.
        owner_start: when that process started (`owners.started`); tells a reused pid.
    """

    version: str
    owner_pid: int
    owner_start: float


class Caller(Struct, frozen=True, array_like=True):
    """Whose request it is.

    Args:
        id: the key's, empty where no keys are needed.
        requests: how many it may send in a minute, 0 for any number.
        tokens: how many it may have read and made in a minute, 0 for any number.
        again: whether this request was counted already; it is not refused any more.
    """

    id: str
    requests: int = 0
    tokens: int = 0
    again: bool = False


class Acquire(Message, frozen=True):
    """Make this model ready and let me use it. → Granted or Refused. Closing gives it back.

    Args:
        model: its name in the catalogue.
        prompt_tokens: an upper bound; `Settle` corrects it.
        max_tokens: what the request asked for, None for as many as the context holds.
        timeout: seconds after which the answer is of no use.
        choices: how many answers the engine makes to the one prompt, `max_tokens` each.
        caller: on whose account it goes, None for nobody's.
        fingerprint: of what it asks, by which it is known again should it crash its engine.
        trail: marks of the caller and of its prompt (`protocol/apart.py`) where callers must not
            find each other's prompts; empty where they may.
    """

    model: str
    prompt_tokens: int
    max_tokens: int | None
    timeout: float
    choices: int = 1
    caller: Caller | None = None
    fingerprint: bytes = b""
    trail: tuple[bytes, ...] = ()


class Spend(Message, frozen=True):
    """Count a request that may need no lease. → Spent or Refused."""

    caller: Caller


class Settle(Message, frozen=True):
    """The prompt turned out to have this many tokens. No answer."""

    prompt_tokens: int


class Extend(Message, frozen=True):
    """Let me generate this many tokens more than was granted. → Extended."""

    tokens: int


class Release(Message, frozen=True):
    """The request is over; no answer. What it came to is counted here, once, for all workers.

    Args:
        outcome: `stop`, `length`, `cancelled` or `error`.
        prompt_tokens: tokens read, cached ones included.
        cached_tokens: those of them that the engine had already.
        completion_tokens: tokens generated.
        first_token: seconds from the request's arrival to its first token, None if none came.
        generating: seconds from the first token to the last.
        lost: whether the engine broke the connection, which may be its end.
    """

    outcome: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token: float | None = None
    generating: float = 0.0
    lost: bool = False


class Load(Message, frozen=True):
    """Load a model. → Done or Refused; with `wait` only when it is ready.

    Args:
        model: its name.
        wait: whether the answer comes when it is ready, or at once.
        engine: which one shall serve it from now on, moved there while requests run; `auto` for
            the one that is best here, None for whichever has it.
    """

    model: str
    wait: bool
    engine: str | None = None


class Unload(Message, frozen=True):
    """Unload a model once nobody uses it; a load that no request waits for is called off.

    → Done or Refused.
    """

    model: str


class Status(Message, frozen=True):
    """Ask what is going on. → StatusReply."""


class Metrics(Message, frozen=True):
    """Ask for all numbers. → MetricsReply."""


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
    """Requests a worker answered since its last report. No answer."""

    served: list[Served]


class Usage(Message, frozen=True):
    """Ask what each key took. → UsageReply."""


class Recall(Message, frozen=True):
    """Ask for the answer to a deterministic request. → Remembered, or as Acquire.

    While another connection has a lease for the same key, there is no answer until it has
    remembered one or is gone. Who is granted a lease finds the answer, and remembers it.

    Args:
        key: fingerprint of the request.
        acquire: a lease for it.
    """

    key: bytes
    acquire: Acquire


class Remember(Message, frozen=True):
    """The answer that nobody knew when I recalled it. No answer."""

    answer: bytes


class Keep(Message, frozen=True):
    """Keep a response so that later ones can go on from it. → Kept.

    Args:
        owner: a fingerprint of the caller's key; nobody else finds it.
        id: of the response.
        previous: the response that it went on from.
        items: ids of its own input and output items, by which it is found too.
        body: what is kept; the supervisor never looks into it.
    """

    owner: bytes
    id: str
    previous: str | None
    items: list[str]
    body: bytes


class Fetch(Message, frozen=True):
    """Ask for a kept response. → Fetched.

    Args:
        owner: as in `Keep`.
        id: of the response.
        whole: whether all those that it went on from are wanted too.
        item: whether `id` is that of an item, whose response is wanted.
    """

    owner: bytes
    id: str
    whole: bool = False
    item: bool = False


class Forget(Message, frozen=True):
    """Forget a kept response. → Kept, which says whether there was one."""

    owner: bytes
    id: str


class Suspects(Message, frozen=True):
    """Ask which requests are refused since they crash engines. → QuarantineReply."""


class Pardon(Message, frozen=True):
    """Refuse none of them any more. → Pardoned."""


class Pull(Message, frozen=True):
    """Fetch a model, in the background. → PullState or Refused.

    Args:
        model: a name of the file of names, or where it is.
        name: its name here, empty for the usual one.
        format: empty for the one that suits this machine.
        force: whether a fetched model of that name is replaced.
    """

    model: str
    name: str = ""
    format: str = ""
    force: bool = False


class PullNews(Message, frozen=True):
    """Tell me of a pull when there is more to tell. → PullState or Refused.

    Args:
        id: the pull's.
        version: of what I have heard, -1 for nothing.
        patience: seconds after which I want to hear the same once more.
    """

    id: str
    version: int = -1
    patience: float = 5.0


class PullCancel(Message, frozen=True):
    """Call a pull off. → PullState when it has ended, or Refused."""

    id: str


class Pulls(Message, frozen=True):
    """Which pulls are there? → PullsReply."""


class Remove(Message, frozen=True):
    """Remove a model's files, unless it is in use. → Removed or Refused."""

    model: str


class Stop(Message, frozen=True):
    """End, with all engines. The connection closes when it is done."""


# From the supervisor


class Welcome(Message, frozen=True):
    """Who answers: the version of its code and settings, and its pid."""

    version: str
    pid: int


class Limits(Struct, frozen=True):
    """What an engine process can hold.

    Args:
        slots: requests at once.
        pool_tokens: tokens over all of them, prompt and completion.
        context: tokens of one request, prompt and completion.
    """

    slots: int
    pool_tokens: int
    context: int


class Granted(Message, frozen=True):
    """A lease.

    Args:
        engine: the name of its adapter.
        socket: where the engine listens.
        model: the model's name in the catalogue.
        context: tokens one request may hold.
        tokens: how many may be generated before `Extend` is needed.
        loaded_at: when this engine process started; tells it from its successor.
        headers: what is left to the caller, for its client; None without limits.
        apart: what keeps its prompt from other callers'; None where it may be shared.
    """

    engine: str
    socket: str
    model: str
    context: int
    tokens: int
    loaded_at: float
    headers: dict[str, str] | None = None
    apart: Apart | None = None


class Spent(Message, frozen=True):
    """It is counted; what is left to the caller, as headers for its client."""

    headers: dict[str, str]


class Extended(Message, frozen=True):
    """How many tokens more may be generated; 0 when the cache is full."""

    tokens: int


class Done(Message, frozen=True):
    """It is done, or under way."""

    engine: str
    state: str
    stage: str | None = None


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
        cause: `switch` (somebody asked for it) or `failover`.
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
    responses: dict[str, int] = {}
    handovers: list[Handover] = []
    memory: dict[str, int] = {}


class MetricsReply(Message, frozen=True):
    """All numbers in Prometheus' text format."""

    text: str


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


class Remembered(Message, frozen=True):
    """An answer from the cache."""

    answer: bytes


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


class Pardoned(Message, frozen=True):
    """How many were refused until now."""

    count: int


class Kept(Message, frozen=True):
    """Whether the response was kept, or was there to forget."""

    done: bool


class Fetched(Message, frozen=True):
    """Kept responses, the oldest first; none when `missing` says which one is not there."""

    bodies: list[bytes]
    missing: str | None = None


class PullState(Message, frozen=True):
    """How far a pull is.

    Args:
        id: by which it is asked for.
        model: what was asked for.
        name: what it is called here, empty until that is known.
        created: when it began, seconds since 1970.
        status: `looking`, `waiting`, `downloading`, `checking`, `success`, `failed`, `cancelled`.
        source: who gives it.
        completed: bytes that are here.
        total: bytes there will be, 0 until that is known.
        rate: bytes a second.
        seconds_left: None while nobody can tell.
        detail: the file it is about, or what is tried again.
        error: what went wrong.
        error_status: the HTTP status of that.
        error_code: its machine-readable name.
        version: counts the news.
    """

    id: str
    model: str
    name: str
    created: int
    status: str = "looking"
    source: str = ""
    completed: int = 0
    total: int = 0
    rate: int = 0
    seconds_left: float | None = None
    detail: str = ""
    error: str = ""
    error_status: int = 0
    error_code: str = ""
    version: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing comes after it."""
        return self.status in ("success", "failed", "cancelled")


class PullsReply(Message, frozen=True):
    """The pulls that run, and those that ended lately."""

    pulls: list[PullState]


class Removed(Message, frozen=True):
    """What was removed: paths below MODELS_DIR, and their bytes."""

    paths: list[str]
    size: int


class Refused(Message, frozen=True):
    """An error for the client; fields as in `errors.ServiceError`."""

    message: str
    status: int
    type: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    retry: bool | None = None
    headers: dict[str, str] | None = None

    @classmethod
    def of(cls, error: ServiceError) -> Refused:
        """Pack an error for the wire."""
        return cls(
            error.message,
            error.status,
            error.type,
            error.code,
            error.param,
            error.retry_after,
            error.retry,
            error.headers or None,
        )

    def error(self) -> ServiceError:
        """Unpack the error."""
        made = ServiceError(
            self.message,
            param=self.param,
            code=self.code,
            status=self.status,
            retry_after=self.retry_after,
            retry=self.retry,
            headers=self.headers,
        )
        made.type = self.type
        return made


Request = (
    Join
    | Acquire
    | Spend
    | Settle
    | Extend
    | Release
    | Load
    | Unload
    | Status
    | Metrics
    | Report
    | Usage
    | Recall
    | Remember
    | Keep
    | Fetch
    | Forget
    | Suspects
    | Pardon
    | Pull
    | PullNews
    | PullCancel
    | Pulls
    | Remove
    | Stop
)
Reply = (
    Welcome
    | Granted
    | Spent
    | Extended
    | Done
    | StatusReply
    | MetricsReply
    | UsageReply
    | Remembered
    | Kept
    | Fetched
    | QuarantineReply
    | Pardoned
    | PullState
    | PullsReply
    | Removed
    | Refused
)
